//! The Transfer service: containerd pulls, verifies, resumes and unpacks; we answer its questions about credentials,
//! and read its progress.

use std::collections::HashMap;
use std::path::Path;
use std::pin::pin;

use containerd_client::services::v1::transfer_client::TransferClient;
use containerd_client::services::v1::{TransferOptions, TransferRequest};
use containerd_client::{to_any, types, types::transfer as pb};
use tonic::{Code, Status};

use super::error::{connection_error, no_answer};
use super::streaming::Stream;
use super::{Containerd, Result};

/// A platform with the names of Go, as image indexes use them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Platform {
    /// GOOS.
    pub os: String,
    /// GOARCH.
    pub architecture: String,
    /// Empty for none.
    pub variant: String,
}

/// What to pull, and where to store it.
#[derive(Clone, Debug)]
pub struct Pull {
    /// The normalised reference; also the name of the image record.
    pub reference: String,
    /// The directory that contains `<host>/hosts.toml`; empty for none.
    pub host_dir: String,
    /// The only platform whose content is fetched.
    pub platform: Platform,
    /// The snapshotter to unpack for. Transfer is not configured for every snapshotter; for one that it does not know
    /// it fails with [`PullFailure::Invalid`]. `None` unpacks nothing, and fetches all blobs that are missing, even if
    /// their layers are unpacked.
    pub snapshotter: Option<String>,
    /// Labels of the image record.
    pub labels: HashMap<String, String>,
}

/// The login for a registry. Has no Debug, since it is a secret.
pub enum Login {
    /// No credentials.
    Anonymous,
    /// User name and password.
    Password {
        username: String,
        /// The password, or a token that the registry accepts in its place.
        password: String,
    },
    /// A refresh token, to be exchanged for an access token.
    IdentityToken(String),
}

/// A message of containerd about a pull.
#[derive(Clone, Debug)]
pub struct Progress {
    pub step: Step,
    /// The blob: `layer-sha256:...`, `manifest-sha256:...`.
    pub name: String,
    /// Bytes so far.
    pub bytes: u64,
}

/// What happens to a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It has to be fetched.
    Waiting,
    /// It is being downloaded.
    Downloading,
    /// It existed before the pull.
    Exists,
    /// It has been downloaded completely.
    Complete,
    /// It is being unpacked.
    Extracting,
    /// It has been unpacked.
    Extracted,
    /// A message about the whole pull.
    Other,
}

/// A failed pull. The message is containerd's, without the user info and query of any URL in it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct PullError {
    pub failure: PullFailure,
    pub message: String,
}

/// How a pull failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullFailure {
    /// The registry does not have it.
    NotFound,
    /// The registry requires other credentials.
    Denied,
    /// The registry could not be reached, is overloaded, or is broken.
    Unreachable,
    /// An image verifier of containerd refused the image.
    Refused,
    /// The reference or the image is malformed.
    Invalid,
    /// A limit of containerd's: too many references, or a full disk.
    Exhausted,
    /// containerd itself cannot be reached.
    Unavailable,
    /// Cancelled on containerd's side.
    Cancelled,
    /// Everything else.
    Other,
}

impl Containerd {
    /// Pulls and unpacks an image. `login` returns the credentials that a host may have; `progress` is called for each
    /// step. Dropping the future cancels the pull. This is the one mutating call for which that is safe: all that it
    /// has fetched is under a lease, this client's or one of Transfer's own.
    ///
    /// # Errors
    /// [`PullError`] with the kind of the failure.
    pub async fn pull(
        &self,
        pull: Pull,
        login: Option<impl Fn(&str) -> Login>,
        mut progress: impl FnMut(Progress),
    ) -> std::result::Result<(), PullError> {
        let away = |error: super::Error| PullError {
            failure: if error.kind() == super::Kind::Unavailable {
                PullFailure::Unavailable
            } else {
                PullFailure::Other
            },
            message: error.to_string(),
        };
        let mut events = self.open_stream("progress").await.map_err(away)?;
        let mut questions = self.open_questions(login.is_some()).await.map_err(away)?;
        let auth_stream = questions.as_ref().map(|stream| stream.id.clone()).unwrap_or_default();
        let request = self.request(transfer_request(pull, auth_stream, events.id.clone()));
        let mut client = TransferClient::new(self.bulk.clone());
        let mut transfer = pin!(client.transfer(request));
        let mut listening = true;
        loop {
            tokio::select! {
                // Progress first: a stream that is not drained stalls the pull.
                biased;
                event = events.receive::<pb::Progress>(), if listening => match event {
                    Some(event) => progress(decode(event)),
                    None => listening = false,
                },
                question = ask(&mut questions) => match (question, &login) {
                    (Some(question), Some(login)) => answer(questions.as_ref(), login(&question.host)).await,
                    _ => questions = None,
                },
                reply = &mut transfer => return reply.map(drop).map_err(|status| failed(&status, &self.socket)),
            }
        }
    }

    async fn open_questions(&self, wanted: bool) -> Result<Option<Stream>> {
        if wanted { Ok(Some(self.open_stream("auth").await?)) } else { Ok(None) }
    }
}

async fn ask(stream: &mut Option<Stream>) -> Option<pb::AuthRequest> {
    match stream {
        Some(stream) => stream.receive().await,
        None => std::future::pending().await,
    }
}

async fn answer(stream: Option<&Stream>, login: Login) {
    let mut response = pb::AuthResponse::default();
    match login {
        Login::Anonymous => response.auth_type = pb::AuthType::None.into(),
        Login::Password { username, password } => {
            response.auth_type = pb::AuthType::Credentials.into();
            response.username = username;
            response.secret = password;
        }
        Login::IdentityToken(token) => {
            response.auth_type = pb::AuthType::Refresh.into();
            response.secret = token;
        }
    }
    if let Some(stream) = stream {
        stream.send(&response).await;
    }
}

fn transfer_request(pull: Pull, auth_stream: String, progress_stream: String) -> TransferRequest {
    let platform = types::Platform {
        os: pull.platform.os,
        architecture: pull.platform.architecture,
        variant: pull.platform.variant,
        ..types::Platform::default()
    };
    let registry = pb::OciRegistry {
        reference: pull.reference.clone(),
        resolver: Some(pb::RegistryResolver {
            auth_stream,
            host_dir: pull.host_dir,
            ..pb::RegistryResolver::default()
        }),
    };
    let unpack = |snapshotter| pb::UnpackConfiguration { platform: Some(platform.clone()), snapshotter };
    let store = pb::ImageStore {
        name: pull.reference,
        labels: pull.labels,
        unpacks: pull.snapshotter.map(unpack).into_iter().collect(),
        platforms: vec![platform],
        ..pb::ImageStore::default()
    };
    TransferRequest {
        source: Some(to_any(&registry)),
        destination: Some(to_any(&store)),
        options: Some(TransferOptions { progress_stream }),
    }
}

fn decode(event: pb::Progress) -> Progress {
    let step = match event.event.as_str() {
        "waiting" => Step::Waiting,
        "downloading" => Step::Downloading,
        "already exists" => Step::Exists,
        "complete" => Step::Complete,
        "extracting" => Step::Extracting,
        "extracted" => Step::Extracted,
        _ => Step::Other,
    };
    Progress { step, name: event.name, bytes: u64::try_from(event.progress).unwrap_or(0) }
}

/// Transfer gives most failures of a registry the code Unknown; the cause is only in the message (docs/adr/0002). This
/// is the only place that reads it, and only for the kind of the error: a hostile registry that imitates a message only
/// changes the name of its own error.
fn failed(status: &Status, socket: &Path) -> PullError {
    let failure = match status.code() {
        Code::NotFound => PullFailure::NotFound,
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition | Code::Unimplemented => {
            PullFailure::Invalid
        }
        Code::PermissionDenied | Code::Unauthenticated => PullFailure::Denied,
        Code::ResourceExhausted => PullFailure::Exhausted,
        Code::Unavailable => PullFailure::Unavailable,
        Code::Cancelled | Code::DeadlineExceeded | Code::Aborted => PullFailure::Cancelled,
        Code::Ok | Code::AlreadyExists | Code::Unknown | Code::Internal | Code::DataLoss => {
            read_failure(status.message())
        }
    };
    let message = match connection_error(status) {
        Some(reason) => no_answer(socket, &reason),
        None => redact(status.message()),
    };
    PullError { failure, message }
}

fn read_failure(message: &str) -> PullFailure {
    if message.starts_with("image verifier ") || message.starts_with("blocking pull of ") {
        return PullFailure::Refused;
    }
    if let Some(code) = http_status(message) {
        return match code {
            401 | 403 => PullFailure::Denied,
            404 | 410 => PullFailure::NotFound,
            408 | 429 | 500..=599 => PullFailure::Unreachable,
            _ => PullFailure::Other,
        };
    }
    if message.contains(": authorization failed") {
        return PullFailure::Denied;
    }
    // Errors of the HTTP client itself: no connection, no such host, no TLS, no response.
    if message.contains("failed to do request: ") || message.contains("failed to fetch anonymous token: ") {
        return PullFailure::Unreachable;
    }
    if message.ends_with("no space left on device") {
        return PullFailure::Exhausted;
    }
    PullFailure::Other
}

/// The HTTP status in a message such as `unexpected status from HEAD request to URL: 503 Service Unavailable`.
fn http_status(message: &str) -> Option<u16> {
    let (_, rest) = message.split_once("unexpected status from ")?;
    let line = rest.lines().next().unwrap_or_default();
    line.split(": ").filter_map(|part| part.get(..3)).find_map(|digits| digits.parse().ok())
}

/// Removes the user info and the query from every URL in a text: signed URLs of blob stores carry credentials in the
/// query, and errors end up in pod events.
pub(super) fn redact(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '>' | ')')).unwrap_or(after.len());
        let (url, tail) = after.split_at(end);
        let path = url.split(['?', '#']).next().unwrap_or_default();
        let host_end = path.find('/').unwrap_or(path.len());
        let host_start = path[..host_end].rfind('@').map_or(0, |at| at + 1);
        clean.push_str(&path[host_start..]);
        if path.len() < url.len() {
            clean.push_str("?...");
            // The colon that follows a URL in a sentence.
            if url.ends_with(':') {
                clean.push(':');
            }
        }
        rest = tail;
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_keeps_neither_user_nor_query() {
        let text =
            "failed to do request: Head \"https://u:p@r.example/v2/a?X-Amz-Signature=S\": EOF, see http://h/x?q=1: 401";
        assert_eq!(
            redact(text),
            "failed to do request: Head \"https://r.example/v2/a?...\": EOF, see http://h/x?...: 401"
        );
    }

    #[test]
    fn a_failure_is_read_from_its_place_in_the_message() {
        let cases = [
            ("image verifier bindir blocked pull of a with digest b for reason: c", PullFailure::Refused),
            ("blocking pull of a with digest b: image verifier bindir returned error: c", PullFailure::Refused),
            (
                "failed to resolve image: failed to do request: Head \"https://h/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
                PullFailure::Unreachable,
            ),
            (
                "failed to resolve image: unexpected status from HEAD request to https://h/v2/a: 503 Service Unavailable",
                PullFailure::Unreachable,
            ),
            (
                "failed to resolve image: unexpected status from HEAD request to https://h:5000/v2/a: 401 Unauthorized",
                PullFailure::Denied,
            ),
            (
                "failed to resolve image: pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
                PullFailure::Denied,
            ),
            ("anything else, image verifier bindir blocked pull of", PullFailure::Other),
        ];
        for (message, failure) in cases {
            assert_eq!(read_failure(message), failure, "{message}");
        }
    }
}
