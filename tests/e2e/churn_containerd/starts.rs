//! What the containers run, and what they write into the node's directory that is mounted into them: one file an attempt.

use std::path::Path;

/// Where the directory is in a container.
pub const MOUNT: &str = "/starts";

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ends by itself after so many tenths of a second.
    Job(u64),
    /// Runs until it is stopped.
    Server,
}

/// The script of one attempt: it says when it starts, each tenth of a second that it is there, and why it ends. A job that is
/// asked to end says so, since that is none of its own ends.
pub fn script(kind: Kind, file: &str, code: i32) -> String {
    let say = format!("say() {{ read up rest </proc/uptime; echo \"$1 $up\" >>{MOUNT}/{file}; }}");
    match kind {
        Kind::Job(tenths) => format!(
            "{say}; trap 'say asked; exit 143' TERM; say start; i=0; \
             while [ $i -lt {tenths} ]; do sleep 0.1; say beat; i=$((i + 1)); done; say end; exit {code}"
        ),
        Kind::Server => {
            format!("{say}; trap 'say end; exit {code}' TERM; say start; while :; do sleep 0.1; say beat; done")
        }
    }
}

/// What an attempt wrote; moments are of [`super::outages::now`].
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Written {
    /// How often a process of it started.
    pub starts: usize,
    /// Its first line.
    pub first: Option<f64>,
    /// Its last line.
    pub last: Option<f64>,
    /// When it came to its own end.
    pub end: Option<f64>,
    /// When it was asked to end and did.
    pub asked: Option<f64>,
}

impl Written {
    /// Of a file, which is not there before the container runs.
    pub fn read(file: &Path) -> Self {
        let mut written = Self::default();
        let text = std::fs::read_to_string(file).unwrap_or_default();
        for (word, at) in text.lines().filter_map(|line| line.split_once(' ')) {
            let Ok(at) = at.parse::<f64>() else { continue };
            written.first = Some(written.first.unwrap_or(at));
            written.last = Some(at);
            match word {
                "start" => written.starts += 1,
                "end" => written.end = Some(at),
                "asked" => written.asked = Some(at),
                _ => {}
            }
        }
        written
    }
}
