//! Known flaws of streaming servers: the addresses that they listen on, their tokens, and hostile clients.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::bed::{Bed, SOON, Target, output, until};
use crate::harness::{Outcome, Test, rule};
use crate::scope::{Scope, sleeper};
use crate::security::Peak;
use crate::streaming::{How, STDIN};

/// How many tokens may wait for their clients, upstream and in Pontoon.
const WAITING_TOKENS: usize = 1000;

pub fn tests() -> Vec<Test> {
    vec![
        rule!(cri_dockerd_106_and_109_and_cri_o_1714_streaming_listens_on_loopback_alone),
        rule!(cri_dockerd_106_and_109_another_address_without_tls_is_refused)
            .only_pontoon("the built-in listens where it is told"),
        rule!(cve_2020_8558_a_token_is_128_random_bits).only_pontoon("the built-in's have 48 bits"),
        rule!(cve_2020_8558_a_token_is_used_once),
        rule!(cve_2020_8558_a_token_ends_after_a_minute).within(150).sleeps(),
        rule!(cve_2020_8558_tokens_that_wait_are_bounded).alone(),
        rule!(cve_2020_8558_guessing_tokens_floods_no_log).alone().within(180),
        rule!(cve_2026_35469_hostile_spdy_costs_no_memory).alone().within(240),
    ]
}

/// The `host:port` and the path of a URL of the streaming server.
fn parts(url: &str) -> anyhow::Result<(&str, &str)> {
    let rest = url.strip_prefix("http://").with_context(|| format!("{url} is not http"))?;
    let slash = rest.find('/').with_context(|| format!("{url} has no path"))?;
    Ok(rest.split_at(slash))
}

/// Requests an upgrade to SPDY. Returns the status of the response and the connection, which stays open.
async fn knock(url: &str) -> anyhow::Result<(u16, TcpStream)> {
    let (host, path) = parts(url)?;
    let mut stream = TcpStream::connect(host).await?;
    let head = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\
        X-Stream-Protocol-Version: portforward.k8s.io\r\nContent-Length: 0";
    stream.write_all(format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{head}\r\n\r\n").as_bytes()).await?;
    let mut line = [0; 12];
    tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut line)).await.context("no answer")??;
    Ok((std::str::from_utf8(&line[9..])?.parse()?, stream))
}

/// The inodes of a process's open sockets.
fn sockets(pid: u32) -> anyhow::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        if let Some(inode) = target.to_string_lossy().strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
            found.insert(inode.to_owned());
        }
    }
    Ok(found)
}

async fn cri_dockerd_106_and_109_and_cri_o_1714_streaming_listens_on_loopback_alone(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let url = scope.bed.exec_url(&id, &["true"], How::default()).await?;
    let (host, _) = parts(&url)?;
    ensure!(host.starts_with("127.0.0.1:"), "{url}");
    let pid = scope.bed.pid(scope.bed.server())?;
    let ours = sockets(pid)?;
    let mut listeners = Vec::new();
    for (file, loopback) in [("tcp", "0100007F"), ("tcp6", "00000000000000000000000001000000")] {
        let Ok(table) = std::fs::read_to_string(format!("/proc/{pid}/net/{file}")) else { continue };
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // The fields are: sl local remote st queues timer retransmits uid timeout inode. State 0A is LISTEN.
            if fields.get(3) == Some(&"0A") && fields.get(9).is_some_and(|inode| ours.contains(*inode)) {
                ensure!(fields[1].starts_with(loopback), "listens on {} ({file})", fields[1]);
                listeners.push(fields[1].to_owned());
            }
        }
    }
    ensure!(!listeners.is_empty(), "nothing listens, though {url} leads somewhere");
    Ok(())
}

async fn cri_dockerd_106_and_109_another_address_without_tls_is_refused(scope: Arc<Scope>) -> Outcome {
    let config = std::fs::read_to_string(scope.bed.dir.join("pontoon.toml"))?;
    // The path of a socket in the test's own directory would be too long.
    let elsewhere = tempfile::tempdir()?;
    let elsewhere = elsewhere.path();
    let elsewhere_is = |line: &str| {
        let key = line.split(' ').next().unwrap_or_default();
        let path = elsewhere.join(key);
        match key {
            "socket" | "root" | "state" | "netns_dir" => format!("{key} = \"{}\"\n", path.display()),
            // In the bed's namespace, it would be refused as a second instance.
            "namespace" => "namespace = \"elsewhere\"\n".to_owned(),
            _ => format!("{line}\n"),
        }
    };
    let mut config: String = config.lines().map(elsewhere_is).collect();
    config.push_str("[streaming]\naddress = \"0.0.0.0\"\n");
    let file = elsewhere.join("pontoon.toml");
    std::fs::write(&file, config)?;
    let mut daemon = scope.bed.daemon_program();
    let done = output(daemon.args(["serve", "--config"]).arg(&file)).await;
    let Err(refusal) = done else { bail!("it started") };
    let refusal = format!("{refusal:#}");
    ensure!(refusal.contains("streaming") && refusal.to_lowercase().contains("tls"), "{refusal}");
    Ok(())
}

async fn cve_2020_8558_a_token_is_128_random_bits(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut seen = BTreeSet::new();
    for _ in 0..50 {
        let url = scope.bed.forward_url(&pod.id).await?;
        let token = url.rsplit('/').next().unwrap_or_default().to_owned();
        // In base64 or hex, 128 bits take at least 22 characters, each of at most six bits.
        ensure!(token.len() >= 22, "{url} has a token of {} characters", token.len());
        ensure!(seen.insert(token[..11].to_owned()), "two tokens begin alike: {url}");
        // Use the token, so that none waits for its client.
        knock(&url).await?;
    }
    Ok(())
}

async fn cve_2020_8558_a_token_is_used_once(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    for url in [
        scope.bed.exec_url(&id, &["true"], How::default()).await?,
        scope.bed.attach_url(&id, How::default()).await?,
        scope.bed.forward_url(&pod.id).await?,
    ] {
        let (first, _open) = knock(&url).await?;
        ensure!(first == 101, "{url}: {first}");
        let (second, _) = knock(&url).await?;
        ensure!(second == 404, "{url} again: {second}");
    }
    // A token is valid only for its own kind of session.
    let url = scope.bed.exec_url(&id, &["true"], How::default()).await?;
    let (status, _) = knock(&url.replace("/exec/", "/attach/")).await?;
    ensure!(status == 404, "an exec's token at attach: {status}");
    Ok(())
}

async fn cve_2020_8558_a_token_ends_after_a_minute(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let old = scope.bed.exec_url(&id, &["true"], How::default()).await?;
    let young = scope.bed.exec_url(&id, &["true"], How::default()).await?;
    tokio::time::sleep(Duration::from_secs(45)).await;
    let (status, _) = knock(&young).await?;
    ensure!(status == 101, "after 45 s: {status}");
    tokio::time::sleep(Duration::from_secs(16)).await;
    let (status, _) = knock(&old).await?;
    ensure!(status == 404, "after 61 s: {status}");
    Ok(())
}

async fn cve_2020_8558_tokens_that_wait_are_bounded(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let mut waiting = Vec::new();
    let refused = loop {
        match scope.bed.forward_url(&pod.id).await {
            Ok(url) => waiting.push(url),
            Err(error) => break error,
        }
        ensure!(waiting.len() <= WAITING_TOKENS, "more than {WAITING_TOKENS} tokens wait");
    };
    let exhausted = |error: &anyhow::Error| {
        error.downcast_ref::<tonic::Status>().is_some_and(|status| status.code() == tonic::Code::ResourceExhausted)
    };
    ensure!(exhausted(&refused), "{refused:#}");
    // A single pod may have half of them, and earlier tests may have left some.
    ensure!(waiting.len() > WAITING_TOKENS / 4, "refused after {}", waiting.len());
    if scope.bed.target == Target::Pontoon {
        let other = scope.pod().await?;
        scope.bed.forward_url(&other.id).await.context("t6: one of another pod")?;
    }
    for more in
        [scope.bed.exec_url(&id, &["true"], How::default()).await, scope.bed.attach_url(&id, How::default()).await]
    {
        let Err(error) = more else { bail!("one more than that was handed out") };
        ensure!(exhausted(&error), "{error:#}");
    }
    for url in waiting {
        knock(&url).await?;
    }
    let ended = scope.bed.exec_session("spdy", &id, &["echo", "again"], How::default()).await?.ends().await?;
    ensure!(ended.text() == "again\n", "afterwards: {ended:?}");
    Ok(())
}

/// The size of all logs of the bed, in bytes.
fn logged(bed: &Bed) -> anyhow::Result<u64> {
    let mut size = 0;
    for entry in std::fs::read_dir(bed.dir.join("logs"))?.flatten() {
        size += entry.metadata()?.len();
    }
    Ok(size)
}

/// Sends `number` requests with guessed tokens, on as few connections as the server allows. All responses must be 404.
async fn guess(host: &str, first: usize, number: usize) -> Outcome {
    let (mut asked, mut at_once) = (0, 50_usize);
    'connection: while asked < number {
        let mut stream = BufReader::new(TcpStream::connect(host).await?);
        while asked < number {
            let turn = at_once.min(number - asked);
            let requests: String = (0..turn)
                .map(|at| format!("GET /exec/{:022} HTTP/1.1\r\nHost: {host}\r\n\r\n", first + asked + at))
                .collect();
            stream.get_mut().write_all(requests.as_bytes()).await?;
            for _ in 0..turn {
                let Some(close) = not_found(&mut stream).await? else { continue 'connection };
                asked += 1;
                if close {
                    // This server answers one request for each connection, and would never read the others.
                    at_once = 1;
                    continue 'connection;
                }
            }
        }
    }
    Ok(())
}

/// Reads a response, which must be 404. Returns whether the connection ends after it, or `None` if it has already
/// ended.
async fn not_found(stream: &mut BufReader<TcpStream>) -> anyhow::Result<Option<bool>> {
    use tokio::io::AsyncBufReadExt as _;
    let (mut status, mut length, mut close) = (String::new(), 0, false);
    if stream.read_line(&mut status).await.unwrap_or(0) == 0 {
        return Ok(None);
    }
    ensure!(status.starts_with("HTTP/1.1 404"), "{status}");
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        close |= line == "connection: close";
    }
    stream.read_exact(&mut vec![0; length]).await?;
    Ok(Some(close))
}

async fn cve_2020_8558_guessing_tokens_floods_no_log(scope: Arc<Scope>) -> Outcome {
    const GUESSES: usize = 100_000;
    const AT_A_TIME: usize = 4;
    let pod = scope.pod().await?;
    let url = scope.bed.forward_url(&pod.id).await?;
    knock(&url).await?;
    let (host, _) = parts(&url)?;
    let (before, peak) = (logged(&scope.bed)?, Peak::of(&scope.bed)?);
    let mut guessing = tokio::task::JoinSet::new();
    for turn in 0..AT_A_TIME {
        let host = host.to_owned();
        guessing.spawn(async move { guess(&host, turn * GUESSES, GUESSES / AT_A_TIME).await });
    }
    while let Some(done) = guessing.join_next().await {
        done??;
    }
    let (log, memory) = (logged(&scope.bed)? - before, peak.grown()?);
    println!("    {GUESSES} guesses: {log} bytes of log, {memory} KiB of memory");
    ensure!(log < 64 << 10, "{log} bytes of log");
    ensure!(memory < 16 << 10, "{memory} KiB of memory");
    Ok(())
}

async fn cve_2026_35469_hostile_spdy_costs_no_memory(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    // A first, harmless session: memory that the daemon allocates once must not count against the hostile sessions.
    scope.bed.exec_session("spdy", &id, &["true"], How::default()).await?.ends().await?;
    let mut failed = Vec::new();
    for (kind, allowed) in [
        ("length", &["closed"][..]),
        ("pairs", &["closed"]),
        ("name", &["closed"]),
        ("bomb", &["closed"]),
        ("settings", &["closed"]),
        // The server may refuse each stream above its limit and keep the connection.
        ("streams", &["closed", "blocked", "open"]),
        // A server that reads no faster than its client or the command does is as good: the client blocks.
        ("pings", &["closed", "blocked"]),
        ("flood", &["closed", "blocked"]),
    ] {
        let peak = Peak::of(&scope.bed)?;
        let url = scope.bed.exec_url(&id, &["sleep", "1234"], STDIN).await?;
        let said = output(scope.bed.tool("streamer").args(["hostile", kind, &url])).await?;
        let memory = peak.grown()?;
        println!("    {kind}: {}, {memory} KiB of memory", said.trim());
        let verdict = said.split(' ').next().unwrap_or_default();
        // The built-in keeps the connection open, and closes it when the expected streams do not come within 30 s.
        let ended = allowed.contains(&verdict) || scope.bed.target == Target::Builtin;
        if !ended || memory > 24 << 10 {
            failed.push(format!("{kind}: {} bytes, {memory} KiB of memory", said.trim()));
        }
    }
    let ended = scope.bed.exec_session("spdy", &id, &["echo", "alive"], How::default()).await?.ends().await?;
    ensure!(ended.text() == "alive\n", "afterwards: {ended:?}");
    if scope.bed.target == Target::Pontoon {
        let gone = until(SOON, || async {
            let left = scope.bed.sh(&id, "ps -o args | grep -c '[s]leep 1234' || true").await?;
            ensure!(left == "0", "{left} commands are left");
            Ok(())
        });
        gone.await?;
    }
    ensure!(failed.is_empty(), "{failed:#?}");
    Ok(())
}
