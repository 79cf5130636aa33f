//! What Pontoon reports about itself: metrics if they are enabled, and `pontoon top`.

use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use tokio::task::JoinSet;

use crate::bed::{Bed, SOON, output, until};
use crate::harness::{Outcome, Test, rule};
use crate::scope::{Scope, shell, sleeper};

const OURS: &str = "they are Pontoon's own";

pub fn tests() -> Vec<Test> {
    vec![
        rule!(metrics_are_off_until_they_are_asked_for).alone().within(120).only_pontoon(OURS),
        rule!(top_shows_what_a_pod_uses_and_what_is_done_with_it).only_pontoon(OURS),
    ]
}

impl Bed {
    /// Runs `body` while the daemon's configuration enables metrics and contains `tables`.
    pub async fn measured(&self, tables: &str, body: impl Future<Output = Outcome>) -> Outcome {
        let metrics = format!("[metrics]\naddress = \"unix://{}/metrics.sock\"\n", self.dir.display());
        self.configured(&format!("{tables}{metrics}"), body).await
    }

    /// Fetches the page of metrics with curl, as an operator would.
    pub async fn scrape(&self) -> anyhow::Result<String> {
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "10", "--unix-socket"]);
        output(curl.arg(self.dir.join("metrics.sock")).arg("http://pontoon/metrics")).await
    }
}

/// The value in the page's line that begins with `start`.
pub fn value(page: &str, start: &str) -> anyhow::Result<f64> {
    let line = page.lines().find(|line| line.starts_with(start));
    let line = line.with_context(|| format!("no {start} in:\n{page}"))?;
    Ok(line.rsplit(' ').next().context("value")?.parse()?)
}

async fn metrics_are_off_until_they_are_asked_for(scope: Arc<Scope>) -> Outcome {
    ensure!(scope.bed.scrape().await.is_err(), "somebody answers without being asked to");
    let seen = scope.bed.measured("", a_pods_life_is_measured(&scope)).await;
    ensure!(!scope.bed.dir.join("metrics.sock").exists(), "a daemon that ended left its socket");
    seen
}

async fn a_pods_life_is_measured(scope: &Scope) -> Outcome {
    let pod = scope.pod().await?;
    pod.start(sleeper("main")).await?;
    let page = scope.bed.scrape().await?;
    for method in ["RunPodSandbox", "CreateContainer", "StartContainer"] {
        let name = format!("pontoon_rpc_duration_seconds_count{{method=\"{method}\",code=\"OK\"}}");
        ensure!(value(&page, &name)? == 1.0, "{name}: {page}");
    }
    // The stages together take most of the call's time, so that none that takes long is missing.
    let (mut stages, mut least) = (0.0, f64::MAX);
    for stage in ["record", "files", "netns", "cni", "task_create", "task_start"] {
        let name = format!("pontoon_stage_duration_seconds_sum{{operation=\"RunPodSandbox\",stage=\"{stage}\"}}");
        let sum = value(&page, &name)?;
        stages += sum;
        least = sum.min(least);
    }
    let whole = value(&page, "pontoon_rpc_duration_seconds_sum{method=\"RunPodSandbox\",code=\"OK\"}")?;
    ensure!(least > 0.0 && stages > whole / 2.0, "stages of {stages} s in a call of {whole} s");
    ensure!(value(&page, "pontoon_cni_duration_seconds_count{verb=\"ADD\",plugin=\"bridge\",result=\"ok\"}")? == 1.0);
    ensure!(value(&page, "pontoon_containerd_calls_total{method=\"Tasks/Create\",code=\"OK\"}")? == 2.0);
    pod.stop().await
}

/// A busy container in its third attempt that ignores SIGTERM, while it is being stopped.
async fn top_shows_what_a_pod_uses_and_what_is_done_with_it(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = shell("main", "trap '' TERM; while :; do :; done");
    config.metadata.get_or_insert_default().attempt = 2;
    let id = pod.start(config).await?;
    let name = pod.config.metadata.as_ref().context("metadata")?.name.clone();
    let (bed, stopped) = (scope.bed.clone(), id.clone());
    let mut stopping = JoinSet::new();
    stopping.spawn(async move { bed.stop(&stopped, 120).await });
    until(SOON, || async {
        let config = scope.bed.dir.join("pontoon.toml");
        let table = output(scope.bed.daemon_program().args(["top", "--once", "--config"]).arg(config)).await?;
        ensure!(table.starts_with("NAMESPACE"), "{table}");
        let line = table.lines().find(|line| line.split_whitespace().nth(1) == Some(&name));
        let line = line.with_context(|| format!("no {name} in:\n{table}"))?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, _, state, running, cpu, memory, received, sent, restarts, verb, stage, _] = words[..] else {
            bail!("{line}");
        };
        ensure!((state, running, restarts, verb, stage) == ("ready", "1/1", "2", "StopContainer", "grace"), "{line}");
        let cores: u32 = cpu.trim_end_matches('m').parse().with_context(|| line.to_owned())?;
        ensure!((10..4000).contains(&cores), "a loop takes a core, or what the node has left of it: {line}");
        ensure!(memory.ends_with("Ki") || memory.ends_with("Mi"), "{line}");
        ensure!([received, sent].iter().all(|rate| rate.starts_with(|c: char| c.is_ascii_digit())), "{line}");
        Ok(())
    })
    .await?;
    scope.bed.stop(&id, 0).await?;
    stopping.join_next().await.context("the stop")??
}
