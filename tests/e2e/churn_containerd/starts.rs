//! What the containers run, and what they write into a directory of the node that is mounted into them: one file for
//! each attempt.

use std::path::Path;

/// The path of this directory in a container.
pub const MOUNT: &str = "/starts";

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ends by itself after this many tenths of a second.
    Job(u64),
    /// Runs until it is stopped.
    Server,
}

/// The script of one attempt. It writes a line when it starts, every tenth of a second while it runs, and when it ends.
/// A job that ends because of SIGTERM writes another word (`asked`), since that is not its normal end.
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

/// What an attempt wrote. Times are those of [`super::outages::now`].
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Written {
    /// How often a process of the attempt started.
    pub starts: usize,
    /// The time of its first line.
    pub first: Option<f64>,
    /// The time of its last line.
    pub last: Option<f64>,
    /// When it reached its normal end.
    pub end: Option<f64>,
    /// When it ended because of SIGTERM, if it is a job.
    pub asked: Option<f64>,
}

impl Written {
    /// Reads the file of an attempt. It does not exist before the container runs, and then the result is empty.
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
