//! What it costs to list a thousand containers, as kubelet's PLEG does every second. bench-lists.sh compares the
//! results.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use http::uri::PathAndQuery;
use pontoon::api::v1;
use pontoon::api::v1::{NamespaceMode, PodSandboxConfig};
use prost::bytes::Buf as _;
use tokio::task::JoinSet;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::bed::Bed;
use crate::harness::{Outcome, Test, rule};
use crate::scope::{Pod, Scope, namespaces, sleeper};

const PODS: usize = 20;
const EACH: usize = 50;
const AT_A_TIME: usize = 4;
const WARM_UP: usize = 50;
const LISTS: usize = 500;

/// Environment variable with the file for the result: microseconds of CPU time for both lists, and their bytes.
const RESULT: &str = "BENCH_LISTS";

pub fn tests() -> Vec<Test> {
    let asked = std::env::var_os(RESULT).is_some();
    vec![rule!(a_thousand_containers_are_listed).only_if(asked, "a benchmark: bench-lists.sh").alone().within(600)]
}

/// As many annotations as kubelet sets on a pod and on a container.
fn words(of: &str) -> HashMap<String, String> {
    let keys = ["hash", "restartCount", "terminationMessagePath", "terminationMessagePolicy", "terminationGracePeriod"];
    let values = keys.map(|key| (format!("io.kubernetes.container.{key}"), format!("{key}-of-{of}")));
    values.into_iter().collect()
}

fn pod_config(scope: &Scope) -> PodSandboxConfig {
    let mut config = scope.pod_config();
    config.annotations = words("a pod");
    config.annotations.insert("kubernetes.io/config.source".to_owned(), "api".to_owned());
    let linux = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    linux.namespace_options = Some(namespaces(NamespaceMode::Node, NamespaceMode::Container));
    config
}

async fn fill(pod: &Pod) -> anyhow::Result<()> {
    for number in 0..EACH {
        let mut config = sleeper(&format!("container-{number}"));
        for key in ["pod.name", "pod.namespace", "pod.uid"] {
            config.labels.insert(format!("io.kubernetes.{key}"), "of-a-pod-with-a-name-of-some-length".to_owned());
        }
        config.annotations = words("a container");
        let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        context.namespace_options = Some(namespaces(NamespaceMode::Node, NamespaceMode::Container));
        pod.create(config).await?;
    }
    Ok(())
}

async fn a_thousand_containers_are_listed(scope: Arc<Scope>) -> Outcome {
    let mut filling = JoinSet::new();
    for _ in 0..PODS {
        if filling.len() == AT_A_TIME {
            filling.join_next().await.context("a pod")???;
        }
        let scope = scope.clone();
        filling.spawn(async move { fill(&scope.run(pod_config(&scope)).await?).await });
    }
    while let Some(filled) = filling.join_next().await {
        filled??;
    }
    let containers = scope.bed.runtime().list_containers(v1::ListContainersRequest::default()).await?.into_inner();
    ensure!(containers.items.len() == PODS * EACH, "{} containers", containers.items.len());

    let bytes = lists(&scope.bed, WARM_UP).await?;
    let (start, before) = (Instant::now(), cpu_time(&scope.bed)?);
    lists(&scope.bed, LISTS).await?;
    let (took, used) = (start.elapsed(), cpu_time(&scope.bed)? - before);
    let [took, used] = [took, used].map(|time| time.as_micros() / LISTS as u128);
    println!("both lists, {bytes} bytes: {used} us of the server's CPU time, {took} us in all");
    std::fs::write(std::env::var(RESULT)?, format!("{used} {bytes}\n"))?;
    Ok(())
}

/// Fetches both lists `times` times. Returns the size of both together in bytes.
async fn lists(bed: &Bed, times: usize) -> anyhow::Result<usize> {
    let mut bytes = 0;
    for _ in 0..times {
        bytes = 0;
        for method in ["ListPodSandbox", "ListContainers"] {
            bytes += raw(bed, method).await.with_context(|| method.to_owned())?;
        }
    }
    Ok(bytes)
}

/// Makes a call with an empty request. Returns the length of the response, which is not decoded.
async fn raw(bed: &Bed, method: &str) -> anyhow::Result<usize> {
    let mut client = tonic::client::Grpc::new(bed.channel()).max_decoding_message_size(16 << 20);
    client.ready().await?;
    let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{method}"))?;
    Ok(client.unary(tonic::Request::new(()), path, Raw).await?.into_inner())
}

/// CPU time of the daemon that serves CRI and of containerd.
fn cpu_time(bed: &Bed) -> anyhow::Result<Duration> {
    let mut daemons = vec!["containerd", bed.server()];
    daemons.dedup();
    let mut ticks = 0;
    for daemon in daemons {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", bed.pid(daemon)?))?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        // utime and stime, fields 14 and 15 of /proc/PID/stat (proc(5)), in hundredths of a second.
        ticks += fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    }
    Ok(Duration::from_millis(ticks * 10))
}

/// Encodes an empty message, and decodes a message to its length.
struct Raw;

impl Codec for Raw {
    type Encode = ();
    type Decode = usize;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = ();
    type Error = tonic::Status;

    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = usize;
    type Error = tonic::Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<usize>, tonic::Status> {
        let length = buffer.remaining();
        buffer.advance(length);
        Ok(Some(length))
    }
}
