//! What the fake reports about itself, and its events.

use std::collections::HashMap;
use std::sync::Arc;

use containerd_client::services::v1 as pb;
use containerd_client::to_any;
use containerd_client::types::{Envelope, RuntimeInfo};
use futures_util::{StreamExt as _, stream};
use tonic::Status;

use super::Inner;
use super::rpc::{Messages, Request, Response};

/// Type and id of a plugin.
pub type Plugin = (&'static str, &'static str);

/// The plugins of containerd 2 that clients query.
pub(super) const PLUGINS: [Plugin; 9] = [
    ("io.containerd.grpc.v1", "containers"),
    ("io.containerd.grpc.v1", "events"),
    ("io.containerd.grpc.v1", "sandboxes"),
    ("io.containerd.grpc.v1", "streaming"),
    ("io.containerd.grpc.v1", "tasks"),
    ("io.containerd.grpc.v1", "transfer"),
    ("io.containerd.runtime.v2", "task"),
    ("io.containerd.snapshotter.v1", "overlayfs"),
    ("io.containerd.transfer.v1", "local"),
];

pub(super) async fn serve(call: Request) -> Response {
    match call.method() {
        "Plugins" => call.unary(|m: &pb::PluginsRequest| m.filters.join(" "), plugins).await,
        "Server" => call.unary(|(): &()| String::new(), server).await,
        "PluginInfo" => call.unary(|m: &pb::PluginInfoRequest| m.id.clone(), plugin_info).await,
        _ => call.unimplemented(),
    }
}

pub(super) async fn serve_version(call: Request) -> Response {
    match call.method() {
        "Version" => call.unary(|(): &()| String::new(), version).await,
        _ => call.unimplemented(),
    }
}

pub(super) async fn serve_events(call: Request) -> Response {
    match call.method() {
        "Subscribe" => call.streaming(|m: &pb::SubscribeRequest| m.filters.join(" "), subscribe).await,
        "Publish" => call.unary(|m: &pb::PublishRequest| m.topic.clone(), publish).await,
        _ => call.unimplemented(),
    }
}

fn plugins(fake: &Arc<Inner>, _: pb::PluginsRequest) -> Result<pb::PluginsResponse, Status> {
    let root = fake.rootfs.display().to_string();
    let plugin = |(kind, id): &Plugin| pb::Plugin {
        r#type: (*kind).to_owned(),
        id: (*id).to_owned(),
        exports: HashMap::from([("root".to_owned(), root.clone())]),
        capabilities: if *id == "overlayfs" { vec!["remap-ids".to_owned()] } else { Vec::new() },
        ..pb::Plugin::default()
    };
    Ok(pb::PluginsResponse { plugins: fake.lock().plugins.iter().map(plugin).collect() })
}

fn server(_: &Arc<Inner>, (): ()) -> Result<pb::ServerResponse, Status> {
    let pid = u64::from(std::process::id());
    Ok(pb::ServerResponse { uuid: "fake".to_owned(), pid, pidns: 0, deprecations: Vec::new() })
}

fn plugin_info(fake: &Arc<Inner>, _: pb::PluginInfoRequest) -> Result<pb::PluginInfoResponse, Status> {
    let document = serde_json::json!({
        "mountOptions": ["rro"],
        "linux": { "namespaces": ["user"], "mountExtensions": { "idmap": { "enabled": true } } },
        "annotations": { "org.opencontainers.runc.version": fake.lock().runc },
    });
    let features = prost_types::Any { type_url: String::new(), value: document.to_string().into_bytes() };
    let info = RuntimeInfo { features: Some(features), ..RuntimeInfo::default() };
    Ok(pb::PluginInfoResponse { plugin: None, extra: Some(to_any(&info)) })
}

fn version(_: &Arc<Inner>, (): ()) -> Result<pb::VersionResponse, Status> {
    Ok(pb::VersionResponse { version: "v2.4.2".to_owned(), revision: "fake".to_owned() })
}

/// Sends every event to every subscriber: a client has to cope with events that it did not request.
fn subscribe(fake: &Arc<Inner>, _: pb::SubscribeRequest) -> Result<Messages<Envelope>, Status> {
    let events = fake.events.subscribe();
    Ok(stream::unfold(events, |mut events| async { Some((Ok(events.recv().await.ok()?), events)) }).boxed())
}

fn publish(fake: &Arc<Inner>, request: pb::PublishRequest) -> Result<(), Status> {
    fake.publish(&request.topic, request.event);
    Ok(())
}
