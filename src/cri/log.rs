//! One line for each mutating call: method, object, result, time.

use std::fmt::Display;
use std::time::Instant;

use tonic::{Response, Status};

use super::status::ToStatus;

/// Runs a mutating verb and says what became of it.
pub(super) async fn logged<T, E>(
    method: &'static str,
    object: String,
    verb: impl Future<Output = Result<T, E>>,
) -> Result<Response<T>, Status>
where
    E: ToStatus,
{
    let line = Line { method, object, start: Instant::now(), finished: false };
    line.end(verb.await.map_err(|error| error.to_status()))
}

/// Answers a read; nothing is logged.
pub(super) fn answered<T, E: ToStatus>(result: Result<T, E>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| error.to_status())
}

/// The line of one call. When the client leaves, tonic drops the call and so this: then the
/// line says that, and the operation goes on without it.
struct Line {
    method: &'static str,
    object: String,
    start: Instant,
    finished: bool,
}

impl Line {
    fn end<T>(mut self, result: Result<T, Status>) -> Result<Response<T>, Status> {
        self.finished = true;
        match result {
            Ok(reply) => {
                tracing::info!(method = self.method, object = self.object, result = "OK", ms = self.milliseconds());
                Ok(Response::new(reply))
            }
            Err(status) => {
                let code = format!("{:?}", status.code());
                tracing::warn!(
                    method = self.method,
                    object = self.object,
                    result = code,
                    error = status.message(),
                    ms = self.milliseconds()
                );
                Err(status)
            }
        }
    }

    fn milliseconds(&self) -> impl Display + tracing::Value {
        self.start.elapsed().as_secs_f64() * 1e3
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.finished {
            tracing::warn!(
                method = self.method,
                object = self.object,
                result = "client left",
                ms = self.milliseconds()
            );
        }
    }
}
