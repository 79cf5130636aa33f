//! Logs on a file system that does not answer.

use std::cell::Cell;
use std::future::Future;
use std::time::Instant;

use super::super::super::super::host_paths::DEADLINE;
use super::*;
use crate::sys::hung::Hung;

/// The result of a call that waits for the deadline of host paths.
async fn at_the_deadline<T>(call: impl Future<Output = T>) -> T {
    let is_paused = Cell::new(false);
    let clock = async {
        for _ in 0..SOON.as_secs() {
            // By then the call's thread is in the kernel, even on a busy machine. A call that has not begun does not
            // block its path for other threads yet.
            tokio::time::sleep(Duration::from_secs(1)).await;
            tokio::time::pause();
            is_paused.set(true);
            tokio::time::advance(DEADLINE).await;
            tokio::time::resume();
            is_paused.set(false);
        }
    };
    let done = tokio::select! {
        done = call => done,
        () = clock => panic!("it has no deadline"),
    };
    // The call may have ended during the advance. With a paused clock, the next timeout would then expire at once.
    if is_paused.get() {
        tokio::time::resume();
    }
    done
}

#[tokio::test]
async fn t8_a_log_that_hangs_is_told_by_its_path() {
    let bed = Bed::new();
    let (streams, mut shim) = bed.prepare(bed.config()).await;
    let hung = Hung::mount(bed.log().parent().unwrap()).unwrap();
    let stuck = |result: Result<()>| matches!(result, Err(Error::LogStuck(path)) if path == bed.log());
    assert!(stuck(at_the_deadline(streams.reopen_log()).await));
    // No thread makes a call on the path while the first one hangs.
    let again = tokio::time::timeout(SOON, streams.reopen_log()).await;
    assert!(stuck(again.unwrap()));
    shim.stdout().write_all(b"in the old one\n").unwrap();
    until(|| bed.driver.counters().counts().written > 0).await;
    drop(hung);
    assert_eq!(stdout_of(&bed.log()), "in the old one\n");
    // When the call has returned, the path can be used again.
    until(|| fs::remove_file(bed.log()).is_ok()).await;
    let deadline = Instant::now() + SOON;
    while let Err(error) = streams.reopen_log().await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(bed.log().exists());
}

#[tokio::test]
async fn t8_streams_whose_log_hangs_are_not_made() {
    let bed = Bed::new();
    fs::create_dir(bed.directory.path().join("logs")).unwrap();
    let _hung = Hung::mount(&bed.directory.path().join("logs")).unwrap();
    let made = at_the_deadline(bed.driver.prepare(bed.config())).await;
    assert!(matches!(made, Err(Error::LogStuck(path)) if path == bed.log()));
    assert!(!directory(&bed.state(), &bed.id).exists());
}

/// Uses more streams than there are threads for logs.
#[tokio::test]
async fn t8_a_pod_whose_logs_hang_leaves_threads_to_all_others() {
    let bed = Bed::new();
    let config = || StreamsConfig { id: ContainerId::random(), ..bed.config() };
    let configs: Vec<StreamsConfig> = std::iter::repeat_with(config).take(130).collect();
    for config in &configs {
        make(config).unwrap();
    }
    fs::create_dir(bed.directory.path().join("logs")).unwrap();
    let hung = Hung::mount(&bed.directory.path().join("logs")).unwrap();
    let mut streams = Vec::new();
    for config in configs {
        streams.push(bed.driver.reattach(config).unwrap());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;

    let other = Bed::new();
    let (_streams, mut shim) = other.prepare(other.config()).await;
    shim.stdout().write_all(b"written\n").unwrap();
    until(|| stdout_of(&other.log()) == "written\n").await;

    drop(hung);
    for streams in streams {
        assert!(streams.barrier(SOON).await, "nobody writes, so each is at its end");
    }
}

/// A tenant who mounts /var/log/pods as a volume can put a symlink in the log directory's place, which must not be
/// followed. The node's operator may have put /var/log/pods elsewhere, which must be followed.
#[tokio::test]
async fn t8_a_log_directory_is_not_followed_through_a_symlink_and_what_it_is_in_is() {
    let bed = Bed::new();
    let path = |name: &str| bed.directory.path().join(name);
    fs::create_dir(path("elsewhere")).unwrap();
    symlink(path("elsewhere"), path("logs")).unwrap();
    let Err(error) = bed.driver.prepare(bed.config()).await else { panic!("it is followed") };
    assert_eq!(error.to_string(), format!("log_directory {:?} is a symlink", path("logs")));
    let mut config = bed.config();
    config.log.as_mut().unwrap().directory = path("logs/pod");
    bed.driver.prepare(config).await.unwrap();
    assert!(path("elsewhere/pod/app/0.log").is_file());
}
