//! Sandbox records.

use std::sync::Arc;

use containerd_client::services::v1::sandbox as pb;
use tonic::Status;

use super::rpc::{Request, Response};
use super::{Inner, already_exists, not_found};

pub(super) async fn serve(call: Request) -> Response {
    match call.method() {
        "Create" => call.unary(id, create).await,
        "List" => call.unary(|_: &pb::StoreListRequest| String::new(), list).await,
        "Delete" => call.unary(|m: &pb::StoreDeleteRequest| m.sandbox_id.clone(), delete).await,
        _ => call.unimplemented(),
    }
}

fn id(request: &pb::StoreCreateRequest) -> String {
    request.sandbox.as_ref().map(|sandbox| sandbox.sandbox_id.clone()).unwrap_or_default()
}

fn create(fake: &Arc<Inner>, request: pb::StoreCreateRequest) -> Result<pb::StoreCreateResponse, Status> {
    let sandbox = request.sandbox.unwrap_or_default();
    let mut state = fake.lock();
    if state.sandboxes.contains_key(&sandbox.sandbox_id) {
        return Err(already_exists("sandbox", &sandbox.sandbox_id));
    }
    state.sandboxes.insert(sandbox.sandbox_id.clone(), sandbox.clone());
    Ok(pb::StoreCreateResponse { sandbox: Some(sandbox) })
}

fn list(fake: &Arc<Inner>, _: pb::StoreListRequest) -> Result<pb::StoreListResponse, Status> {
    Ok(pb::StoreListResponse { list: fake.lock().sandboxes.values().cloned().collect() })
}

fn delete(fake: &Arc<Inner>, request: pb::StoreDeleteRequest) -> Result<pb::StoreDeleteResponse, Status> {
    let id = request.sandbox_id;
    fake.lock().sandboxes.remove(&id).map(|_| pb::StoreDeleteResponse {}).ok_or_else(|| not_found("sandbox", &id))
}
