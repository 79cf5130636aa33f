//! Images, content and leases. One image with one layer exists from the start.

use std::collections::HashMap;
use std::sync::Arc;

use containerd_client::services::v1 as pb;
use containerd_client::to_any;
use containerd_client::types::Descriptor;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tonic::Status;

use super::rpc::{Messages, Request, Response};
use super::snapshots::Snapshot;
use super::{Inner, State, already_exists, not_found};

pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The image that exists from the start.
pub const IMAGE: &str = "registry.example/app:1";
const REPOSITORY: &str = "registry.example/app";

/// Stores the image as a pull by Pontoon would: by tag, by digest and by id, with its layer unpacked.
pub(super) fn store_one(state: &mut State) {
    let diff_id = digest(b"layer");
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Cmd": ["fake"], "Volumes": { "/data": {} } },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    let (config, manifest) = store_manifest(state, CONFIG, &config);
    for name in [IMAGE.to_owned(), format!("{REPOSITORY}@{}", manifest.digest), config.digest] {
        let labels = HashMap::from([("io.cri-containerd.image".to_owned(), "managed".to_owned())]);
        let image = pb::Image { name: name.clone(), labels, target: Some(manifest.clone()), ..pb::Image::default() };
        state.images.insert(name, image);
    }
    state.snapshots.insert(diff_id, Snapshot { parent: String::new(), committed: true, read_only: false });
}

/// Stores a config, and a manifest with that config and the only layer.
fn store_manifest(state: &mut State, config_type: &str, config: &Value) -> (Descriptor, Descriptor) {
    let config = store(state, config.to_string().into_bytes(), config_type);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": config.media_type, "digest": config.digest, "size": config.size },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(b"layer"), "size": 5 }],
    });
    let manifest = store(state, manifest.to_string().into_bytes(), "application/vnd.oci.image.manifest.v1+json");
    (config, manifest)
}

/// Makes a name refer to an image with this config, as another client of containerd would. The name may have referred
/// to another image. Returns the image's id.
pub(super) fn tag_image(fake: &Inner, name: &str, config_type: &str, config: &Value) -> String {
    let mut config = config.clone();
    let is_image = config_type == CONFIG;
    if is_image {
        config["rootfs"] = json!({ "type": "layers", "diff_ids": [digest(b"layer")] });
    }
    let mut state = fake.lock();
    let (config, manifest) = store_manifest(&mut state, config_type, &config);
    let id = if is_image { config.digest } else { manifest.digest.clone() };
    let image = pb::Image { name: name.to_owned(), target: Some(manifest), ..pb::Image::default() };
    state.images.insert(name.to_owned(), image);
    drop(state);
    let event = pb::ImageUpdate { name: name.to_owned(), ..pb::ImageUpdate::default() };
    fake.publish("/images/update", Some(to_any(&event)));
    id
}

/// Makes a name refer to any document.
pub(super) fn tag_document(fake: &Inner, name: &str, document: &Value) {
    let mut state = fake.lock();
    let target = store(&mut state, document.to_string().into_bytes(), "application/vnd.oci.image.index.v1+json");
    let image = pb::Image { name: name.to_owned(), target: Some(target), ..pb::Image::default() };
    state.images.insert(name.to_owned(), image);
    drop(state);
    let event = pb::ImageUpdate { name: name.to_owned(), ..pb::ImageUpdate::default() };
    fake.publish("/images/update", Some(to_any(&event)));
}

/// Removes a name.
pub(super) fn delete_image(fake: &Inner, name: &str) {
    fake.lock().images.remove(name);
    fake.publish("/images/delete", Some(to_any(&pb::ImageDelete { name: name.to_owned() })));
}

fn store(state: &mut State, blob: Vec<u8>, media_type: &str) -> Descriptor {
    let (digest, size) = (digest(&blob), i64::try_from(blob.len()).unwrap());
    state.blobs.insert(digest.clone(), blob);
    Descriptor { media_type: media_type.to_owned(), digest, size, annotations: HashMap::new() }
}

fn digest(blob: &[u8]) -> String {
    let hex: String = Sha256::digest(blob).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

pub(super) async fn serve(call: Request) -> Response {
    match call.method() {
        "Get" => call.unary(|m: &pb::GetImageRequest| m.name.clone(), get).await,
        "List" => call.unary(|m: &pb::ListImagesRequest| m.filters.join(" "), list).await,
        "Create" => call.unary(|m: &pb::CreateImageRequest| name(m.image.as_ref()), create).await,
        "Update" => call.unary(|m: &pb::UpdateImageRequest| name(m.image.as_ref()), update).await,
        "Delete" => call.unary(|m: &pb::DeleteImageRequest| m.name.clone(), delete).await,
        _ => call.unimplemented(),
    }
}

pub(super) async fn serve_content(call: Request) -> Response {
    match call.method() {
        "Info" => call.unary(|m: &pb::InfoRequest| m.digest.clone(), info).await,
        "Read" => call.streaming(|m: &pb::ReadContentRequest| m.digest.clone(), read).await,
        _ => call.unimplemented(),
    }
}

pub(super) async fn serve_leases(call: Request) -> Response {
    match call.method() {
        "Create" => call.unary(|m: &pb::CreateRequest| m.id.clone(), create_lease).await,
        "Delete" => call.unary(|m: &pb::DeleteRequest| m.id.clone(), delete_lease).await,
        "List" => call.unary(|_: &pb::ListRequest| String::new(), list_leases).await,
        _ => call.unimplemented(),
    }
}

fn name(image: Option<&pb::Image>) -> String {
    image.map(|image| image.name.clone()).unwrap_or_default()
}

fn get(fake: &Arc<Inner>, request: pb::GetImageRequest) -> Result<pb::GetImageResponse, Status> {
    let image = fake.lock().images.get(&request.name).cloned().ok_or_else(|| not_found("image", &request.name))?;
    Ok(pb::GetImageResponse { image: Some(image) })
}

fn list(fake: &Arc<Inner>, _: pb::ListImagesRequest) -> Result<pb::ListImagesResponse, Status> {
    Ok(pb::ListImagesResponse { images: fake.lock().images.values().cloned().collect() })
}

fn create(fake: &Arc<Inner>, request: pb::CreateImageRequest) -> Result<pb::CreateImageResponse, Status> {
    let image = request.image.unwrap_or_default();
    let mut state = fake.lock();
    if state.images.contains_key(&image.name) {
        return Err(already_exists("image", &image.name));
    }
    state.images.insert(image.name.clone(), image.clone());
    Ok(pb::CreateImageResponse { image: Some(image) })
}

fn update(fake: &Arc<Inner>, request: pb::UpdateImageRequest) -> Result<pb::UpdateImageResponse, Status> {
    let image = request.image.unwrap_or_default();
    let mut state = fake.lock();
    let old = state.images.get_mut(&image.name).ok_or_else(|| not_found("image", &image.name))?;
    old.clone_from(&image);
    Ok(pb::UpdateImageResponse { image: Some(image) })
}

fn delete(fake: &Arc<Inner>, request: pb::DeleteImageRequest) -> Result<(), Status> {
    fake.lock().images.remove(&request.name).map(drop).ok_or_else(|| not_found("image", &request.name))
}

fn info(fake: &Arc<Inner>, request: pb::InfoRequest) -> Result<pb::InfoResponse, Status> {
    let size = fake.lock().blobs.get(&request.digest).map(Vec::len);
    let size = size.ok_or_else(|| not_found("content", &request.digest))?;
    let info = pb::Info { digest: request.digest, size: i64::try_from(size).unwrap(), ..pb::Info::default() };
    Ok(pb::InfoResponse { info: Some(info) })
}

fn read(fake: &Arc<Inner>, request: pb::ReadContentRequest) -> Result<Messages<pb::ReadContentResponse>, Status> {
    let blob = fake.lock().blobs.get(&request.digest).cloned();
    let data = blob.ok_or_else(|| not_found("content", &request.digest))?;
    Ok(stream::iter([Ok(pb::ReadContentResponse { offset: 0, data })]).boxed())
}

fn create_lease(fake: &Arc<Inner>, request: pb::CreateRequest) -> Result<pb::CreateResponse, Status> {
    let lease = pb::Lease { id: request.id, labels: request.labels, ..pb::Lease::default() };
    let mut state = fake.lock();
    if state.leases.contains_key(&lease.id) {
        return Err(already_exists("lease", &lease.id));
    }
    state.leases.insert(lease.id.clone(), lease.clone());
    Ok(pb::CreateResponse { lease: Some(lease) })
}

fn list_leases(fake: &Arc<Inner>, _: pb::ListRequest) -> Result<pb::ListResponse, Status> {
    Ok(pb::ListResponse { leases: fake.lock().leases.values().cloned().collect() })
}

fn delete_lease(fake: &Arc<Inner>, request: pb::DeleteRequest) -> Result<(), Status> {
    fake.lock().leases.remove(&request.id).map(drop).ok_or_else(|| not_found("lease", &request.id))
}
