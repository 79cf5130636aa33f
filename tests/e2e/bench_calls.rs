//! What bench-calls.sh measures: `--bench-calls ENV ENV` with the environment files of two running beds. Pods run and
//! end on both in turn, A B then B A, so that other load on the machine affects both alike.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use pontoon::api::v1;

use crate::bed::Bed;
use crate::bench::number;
use crate::scope::{Scope, sleeper};

/// Pods that are not counted: the first ones create what all pods share.
const WARM_UP: usize = 3;
/// ExecSync calls in each pod.
const PROBES: usize = 4;

/// The calls for one pod, in their order.
const CALLS: [&str; 8] = [
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    "ExecSync",
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
];

#[derive(Default)]
struct Times(BTreeMap<&'static str, Vec<Duration>>);

impl Times {
    async fn timed<T>(
        &mut self,
        call: &'static str,
        doing: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let start = Instant::now();
        let answer = doing.await?;
        self.0.entry(call).or_default().push(start.elapsed());
        Ok(answer)
    }

    /// A quantile in milliseconds; 50 percent is the median.
    fn quantile(&self, call: &str, percent: usize) -> f64 {
        let mut times = self.0.get(call).cloned().unwrap_or_default();
        times.sort();
        let at = times.len() * percent / 100;
        times.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
    }
}

pub fn main(a: &Path, b: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let lives = number("LIVES", 50)?;
        let open = |file: &Path, name: &str| anyhow::Ok(Arc::new(Scope::new(Arc::new(Bed::open(file)?), name)?));
        let sides = [open(a, "side-a")?, open(b, "side-b")?];
        let mut times = [Times::default(), Times::default()];
        for side in &sides {
            side.bed.pull_test_image().await?;
            for _ in 0..WARM_UP {
                life(side, &mut Times::default()).await?;
            }
        }
        for round in 0..lives {
            for side in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
                life(&sides[side], &mut times[side]).await.with_context(|| format!("side {side}"))?;
            }
        }
        print(&times);
        for side in &sides {
            side.sweep().await?;
        }
        Ok(())
    })
}

fn print([a, b]: &[Times; 2]) {
    println!("call\tn\tA p50 ms\tB p50 ms\tratio\tA p90 ms\tB p90 ms\tratio");
    for call in CALLS {
        let count = a.0.get(call).map_or(0, Vec::len);
        let columns = [50, 90].map(|percent| {
            let (a, b) = (a.quantile(call, percent), b.quantile(call, percent));
            format!("{a:.2}\t{b:.2}\t{:.3}", a / b)
        });
        println!("{call}\t{count}\t{}", columns.join("\t"));
    }
}

/// Runs a pod with a container from its start to its removal, and records the times.
async fn life(scope: &Scope, times: &mut Times) -> anyhow::Result<()> {
    let config = scope.pod_config();
    std::fs::create_dir_all(&config.log_directory)?;
    let pod = times.timed("RunPodSandbox", scope.run(config)).await?;
    let id = times.timed("CreateContainer", pod.create(sleeper("main"))).await?;
    times.timed("StartContainer", scope.bed.start(&id)).await?;
    for _ in 0..PROBES {
        let request = v1::ExecSyncRequest { container_id: id.clone(), cmd: vec!["true".to_owned()], timeout: 10 };
        let probe = async { scope.bed.runtime().exec_sync(request).await.context("ExecSync") };
        times.timed("ExecSync", probe).await?;
    }
    times.timed("StopContainer", scope.bed.stop(&id, 0)).await?;
    times.timed("RemoveContainer", scope.bed.remove(&id)).await?;
    times.timed("StopPodSandbox", pod.stop()).await?;
    times.timed("RemovePodSandbox", pod.remove()).await
}
