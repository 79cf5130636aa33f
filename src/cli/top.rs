//! `pontoon top`: the pods of this node, the resources they use, and the operations in flight for them.

mod rows;
mod running;
mod sample;
mod screen;
mod table;

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::bail;

use self::rows::{SortKey, rows};
use self::sample::{Sample, Source};
use crate::config::{Config, TopFlags};

/// The time between the two samples of `--once`, which rates need.
const ONCE: Duration = Duration::from_secs(1);

/// Shows the table until `q` is pressed, or prints it once as plain text.
///
/// # Errors
/// When CRI does not answer at the start, or stdout is not a terminal. Later failures are shown, and the query is
/// repeated.
pub async fn run(flags: TopFlags) -> anyhow::Result<()> {
    let config = Config::load(&flags.serve_flags())?;
    let mut source = Source::new(&config);
    if flags.once {
        return once(&mut source).await;
    }
    if !std::io::stdout().is_terminal() {
        bail!("stdout is not a terminal; use --once for a plain table");
    }
    let first = source.sample().await?;
    screen::show(source, first, Duration::from_secs(flags.interval.clamp(1, 3600))).await
}

async fn once(source: &mut Source) -> anyhow::Result<()> {
    let mut before: Option<Sample> = None;
    let mut now = source.sample().await?;
    if now.has_stats() {
        tokio::time::sleep(ONCE).await;
        before = Some(std::mem::replace(&mut now, source.sample().await?));
    }
    let rows = rows(before.as_ref(), &now, SortKey::Name);
    let mut out = std::io::stdout().lock();
    // The reader may have closed the pipe: `pontoon top --once | head`.
    let _ = out.write_all(table::plain(&rows).as_bytes());
    for problem in &now.problems {
        eprintln!("pontoon: {problem}");
    }
    Ok(())
}
