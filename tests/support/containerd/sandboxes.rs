//! Sandbox records.

use std::sync::Arc;

use containerd_client::services::v1::sandbox as pb;
use containerd_client::types;
use tonic::Status;

use super::filters::Filter;
use super::rpc::{Request, Response};
use super::{Inner, already_exists, not_found, now};

pub(super) async fn serve(call: Request) -> Response {
    match call.method() {
        "Create" => call.unary(id, create).await,
        "List" => call.unary(|m: &pb::StoreListRequest| m.filters.join(" "), list).await,
        "Update" => call.unary(of_update, update).await,
        "Delete" => call.unary(|m: &pb::StoreDeleteRequest| m.sandbox_id.clone(), delete).await,
        _ => call.unimplemented(),
    }
}

fn id(request: &pb::StoreCreateRequest) -> String {
    request.sandbox.as_ref().map(|sandbox| sandbox.sandbox_id.clone()).unwrap_or_default()
}

fn create(fake: &Arc<Inner>, request: pb::StoreCreateRequest) -> Result<pb::StoreCreateResponse, Status> {
    let sandbox = types::Sandbox { created_at: Some(now()), ..request.sandbox.unwrap_or_default() };
    let mut state = fake.lock();
    if state.sandboxes.contains_key(&sandbox.sandbox_id) {
        return Err(already_exists("sandbox", &sandbox.sandbox_id));
    }
    state.sandboxes.insert(sandbox.sandbox_id.clone(), sandbox.clone());
    Ok(pb::StoreCreateResponse { sandbox: Some(sandbox) })
}

fn of_update(request: &pb::StoreUpdateRequest) -> String {
    request.sandbox.as_ref().map(|sandbox| sandbox.sandbox_id.clone()).unwrap_or_default()
}

/// Pontoon updates only extensions.
fn update(fake: &Arc<Inner>, request: pb::StoreUpdateRequest) -> Result<pb::StoreUpdateResponse, Status> {
    let new = request.sandbox.unwrap_or_default();
    let mut state = fake.lock();
    let sandbox = state.sandboxes.get_mut(&new.sandbox_id).ok_or_else(|| not_found("sandbox", &new.sandbox_id))?;
    for field in request.fields {
        let key = field.strip_prefix("extensions.").unwrap_or_else(|| panic!("no update of {field}"));
        sandbox.extensions.insert(key.to_owned(), new.extensions[key].clone());
    }
    Ok(pb::StoreUpdateResponse { sandbox: Some(sandbox.clone()) })
}

fn list(fake: &Arc<Inner>, request: pb::StoreListRequest) -> Result<pb::StoreListResponse, Status> {
    let filter = Filter::of(&request.filters)?;
    let state = fake.lock();
    let list = state.sandboxes.iter().filter(|(id, _)| filter.has(id)).map(|(_, sandbox)| sandbox.clone());
    Ok(pb::StoreListResponse { list: list.collect() })
}

fn delete(fake: &Arc<Inner>, request: pb::StoreDeleteRequest) -> Result<pb::StoreDeleteResponse, Status> {
    let id = request.sandbox_id;
    fake.lock().sandboxes.remove(&id).map(|_| pb::StoreDeleteResponse {}).ok_or_else(|| not_found("sandbox", &id))
}
