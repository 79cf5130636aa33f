//! Pontoon's own read-only service, for `pontoon top` and similar commands.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};

use super::Cri;
use crate::admin::v1::admin_server::Admin;
use crate::admin::v1::*;
use crate::telemetry::Running;

#[tonic::async_trait]
impl Admin for Cri {
    async fn operations(
        self: Arc<Self>,
        _: Request<OperationsRequest>,
    ) -> Result<Response<OperationsResponse>, Status> {
        let operations = self.node.tasks.operations().running().into_iter().map(operation).collect();
        Ok(Response::new(OperationsResponse { operations }))
    }
}

fn operation(running: Running) -> Operation {
    let stages = running.stages.iter().map(|open| Stage {
        name: open.stage.name().to_owned(),
        age_ns: ns(open.age),
        detail: open.detail.clone().unwrap_or_default(),
    });
    Operation {
        verb: running.verb.name().to_owned(),
        object: running.object.clone(),
        age_ns: ns(running.age),
        stages: stages.collect(),
    }
}

fn ns(age: Duration) -> u64 {
    u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)
}
