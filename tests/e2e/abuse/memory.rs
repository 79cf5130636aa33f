//! T10: memory that a tenant can make the daemon hold, permanently or for a moment.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::bed::until;
use crate::churn::rss_anon;
use crate::security::Peak;
use crate::streaming::STDIN;

/// KiB in a MiB.
const MIB: u64 = 1 << 10;
/// Within this time, memory that was needed only for a moment must be returned to the kernel.
const GIVEN_BACK: Duration = Duration::from_secs(60);

pub(super) fn tests() -> Vec<Test> {
    vec![
        rule!(t10_a_passwd_of_ten_million_fields_is_not_taken_apart)
            .alone()
            .only_pontoon("the built-in refuses the container: a line of passwd is too long for it"),
        rule!(t10_an_image_of_millions_of_variables_is_not_kept)
            .alone()
            .within(120)
            .only_pontoon("the built-in keeps what Go makes of it"),
        rule!(t10_containers_of_large_environments_are_not_kept).alone().within(120).only_pontoon(WHOLE),
        rule!(t10_a_message_that_never_ends_is_not_collected)
            .alone()
            .only_pontoon("the built-in speaks WebSocket's v4"),
    ]
}

const WHOLE: &str = "the built-in keeps containers as they are";

/// Waits until a daemon's anonymous memory is at most `most` MiB above `before`.
async fn given_back(pid: u32, before: f64, most: f64) -> anyhow::Result<()> {
    let grown = || anyhow::Ok((rss_anon(pid)? - before) / 1024.0);
    let ended = until(GIVEN_BACK, || async {
        ensure!(grown()? <= most, "{:.1} MiB are kept", grown()?);
        Ok(())
    });
    ended.await?;
    println!("    {:.1} MiB are kept", grown()?);
    Ok(())
}

async fn t10_a_passwd_of_ten_million_fields_is_not_taken_apart(scope: Arc<Scope>) -> Outcome {
    let victim = Victim::start(&scope).await?;
    let registry = Registry::start(&scope.bed).await?;
    let root = scope.volume("fields")?;
    std::fs::create_dir_all(root.join("bin"))?;
    std::fs::create_dir_all(root.join("etc"))?;
    std::fs::copy("/bin/busybox", root.join("bin/sh"))?;
    let colons = ":".repeat((10 << 20) - 100);
    std::fs::write(root.join("etc/passwd"), format!("{colons}\nweb:x:33:33::/:/bin/sh\n"))?;
    std::fs::write(root.join("etc/group"), &colons)?;
    let (layer, diff_id) = layer_of(&scope, &root, &["--owner=0", "--group=0"]).await?;
    let says = Says { config: json!({ "User": "web" }), ..Says::default() };
    let name = registry.image_that_says("fields", &layer, &diff_id, &says)?;
    scope.bed.pull(&name).await?;
    let pod = scope.pod().await?;
    let attack = || async {
        let peak = Peak::of(&scope.bed)?;
        let mut container = sleeper("fields");
        container.image = Some(image_spec(&name));
        let id = pod.create(container).await?;
        let grown = peak.grown()?;
        ensure!(grown < 64 * MIB, "{grown} KiB");
        scope.bed.remove(&id).await?;
        Ok(grown)
    };
    let grown = victim.beside(attack).await?.into_iter().max().unwrap_or_default();
    println!("    the daemon had at most {} MiB more at its peak", grown / MIB);
    victim.afterwards().await
}

async fn t10_an_image_of_millions_of_variables_is_not_kept(scope: Arc<Scope>) -> Outcome {
    let victim = Victim::start(&scope).await?;
    let registry = Registry::start(&scope.bed).await?;
    let pid = scope.bed.pid(scope.bed.server())?;
    let before = rss_anon(pid)?;
    let peak = Peak::of(&scope.bed)?;
    let mut images = Vec::new();
    for (name, env) in [("empty", vec![""; 2_700_000]), ("large", vec!["A=b"; 400_000])] {
        let says = Says { config: json!({ "Env": env }), ..Says::default() };
        images.push(served_image(&scope, &registry, name, &says).await?);
    }
    let attack = || async {
        let Err(refused) = scope.bed.pull(&images[0]).await else { bail!("2,700,000 variables are taken") };
        let said = format!("{refused:#}");
        ensure!(said.contains("it has more than 500000 values"), "{said}");
        // A repetition has to read it again. At the end it is there, and must not be kept in memory.
        scope.bed.remove_image(&images[1]).await?;
        scope.bed.pull(&images[1]).await?;
        Ok(())
    };
    victim.beside(attack).await?;
    let grown = peak.grown()?;
    println!("    the daemon had {} MiB more at its peak", grown / MIB);
    ensure!(grown < 128 * MIB, "{grown} KiB");
    given_back(pid, before, 8.0).await?;
    victim.afterwards().await
}

async fn t10_containers_of_large_environments_are_not_kept(scope: Arc<Scope>) -> Outcome {
    const COUNT: u32 = 8;
    let victim = Victim::start(&scope).await?;
    let pod = scope.pod().await?;
    let pid = scope.bed.pid(scope.bed.server())?;
    let before = rss_anon(pid)?;
    let attack = || async {
        emptied(&scope.bed, &pod).await?;
        for number in 0..COUNT {
            let mut container = sleeper(&format!("large-{number}"));
            let variable = |at| v1::KeyValue { key: format!("V{at}"), value: vec![b'x'; 100_000] };
            // The first container has as many as Linux passes to a program, and is started.
            container.envs = (0..if number == 0 { 15 } else { 70 }).map(variable).collect();
            let id = pod.create(container).await?;
            if number == 0 {
                scope.bed.start(&id).await?;
                let said = scope.bed.sh(&id, "echo ${#V14} ${#V15}").await?;
                ensure!(said.trim_end() == "100000 0", "{said}");
            }
        }
        Ok(())
    };
    victim.beside(attack).await?;
    given_back(pid, before, COUNT.into()).await?;
    victim.afterwards().await
}

/// Execs whose command does not read its stdin. Each client sends one WebSocket message for stdin that never ends.
async fn t10_a_message_that_never_ends_is_not_collected(scope: Arc<Scope>) -> Outcome {
    const SESSIONS: usize = 16;
    let victim = Victim::start(&scope).await?;
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("stdin")).await?;
    let peak = Peak::of(&scope.bed)?;
    let attack = || async {
        let mut sessions = Vec::new();
        for _ in 0..SESSIONS {
            let url = scope.bed.exec_url(&id, &["sleep", "1000"], STDIN).await?;
            sessions.push(endless(&url).await?);
        }
        let grown = peak.grown()?;
        ensure!(grown < 2 * MIB * SESSIONS as u64, "{grown} KiB");
        Ok(grown)
    };
    let grown = victim.beside(attack).await?.into_iter().max().unwrap_or_default();
    println!("    the daemon had at most {} MiB more at its peak, for {SESSIONS} sessions", grown / MIB);
    victim.afterwards().await
}

/// Opens a session and sends one message in fragments, until the server stops reading.
async fn endless(url: &str) -> anyhow::Result<TcpStream> {
    let (address, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).context("no such URL")?;
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    ensure!(answer == *b"HTTP/1.1 101", "{}", String::from_utf8_lossy(&answer));
    // A binary frame of 64 KiB that is not the message's last one, masked with zeros.
    let mut frame = b"\x02\xff\0\0\0\0\0\x01\0\0\0\0\0\0".to_vec();
    frame.resize(frame.len() + (64 << 10), 0);
    for _ in 0..256 {
        if tokio::time::timeout(Duration::from_millis(500), stream.write_all(&frame)).await.is_err() {
            break;
        }
        // From now on, continuation frames of the same message.
        frame[0] = 0;
    }
    Ok(stream)
}
