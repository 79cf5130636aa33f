//! The live view. The terminal is restored however the view ends: with `q`, a signal, an error or a panic.

use std::time::Duration;

use futures_util::future::BoxFuture;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Modifier;
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row as TableRow, Table, TableState};
use ratatui::{DefaultTerminal, Frame};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::rows::{Row, SortKey, rows};
use super::sample::{Sample, Source};
use super::table::{bytes, containers, cpu, doing, memory, restarts};

/// How long the thread polls for a key before it checks whether the receiver still exists.
const POLL: Duration = Duration::from_millis(100);
/// The last line.
const HELP: &str = "q quit | sort: n name c cpu m memory w net r restarts o in flight | ↑↓ scroll";

/// A title, a width, and the text of a row's cell.
type Column = (&'static str, Constraint, fn(&Row) -> String);

/// Sets of columns, each with the width of a terminal from which it is used, the widest first. An operation with its
/// stage, the plugin that hangs, and its age fits from 80 characters on: `RunPodSandbox cni(ADD bridge) 3s`.
const SETS: [(u16, &[Column]); 4] = [(120, ALL), (96, ONE_NETWORK), (60, NO_NETWORK), (0, NO_USAGE)];

const ALL: &[Column] = &[
    ("NAMESPACE", Constraint::Length(16), |row| row.namespace.clone()),
    ("POD", Constraint::Fill(2), |row| row.pod.clone()),
    ("STATE", Constraint::Length(8), |row| row.state.to_owned()),
    ("UP", Constraint::Length(5), containers),
    ("CPU", Constraint::Length(6), cpu),
    ("MEM", Constraint::Length(6), memory),
    ("RX/s", Constraint::Length(6), |row| bytes(row.received)),
    ("TX/s", Constraint::Length(6), |row| bytes(row.sent)),
    ("RST", Constraint::Length(4), restarts),
    ("IN FLIGHT", Constraint::Fill(3), doing),
];

/// No namespace, and one column for the network.
const ONE_NETWORK: &[Column] = &[
    ("POD", Constraint::Fill(1), |row| row.pod.clone()),
    ("STATE", Constraint::Length(8), |row| row.state.to_owned()),
    ("UP", Constraint::Length(5), containers),
    ("CPU", Constraint::Length(5), cpu),
    ("MEM", Constraint::Length(5), memory),
    ("NET/s", Constraint::Length(5), |row| bytes(row.network())),
    ("RST", Constraint::Length(3), restarts),
    ("IN FLIGHT", Constraint::Length(34), doing),
];

const NO_NETWORK: &[Column] = &[
    ("POD", Constraint::Fill(1), |row| row.pod.clone()),
    ("STATE", Constraint::Length(8), |row| row.state.to_owned()),
    ("UP", Constraint::Length(5), containers),
    ("CPU", Constraint::Length(5), cpu),
    ("MEM", Constraint::Length(5), memory),
    ("RST", Constraint::Length(3), restarts),
    ("IN FLIGHT", Constraint::Fill(2), doing),
];

/// What a terminal of half the usual width is too narrow for is left out, but never the pod.
const NO_USAGE: &[Column] = &[
    ("POD", Constraint::Fill(1), |row| row.pod.clone()),
    ("STATE", Constraint::Length(8), |row| row.state.to_owned()),
    ("IN FLIGHT", Constraint::Fill(2), doing),
];

/// A pause, and the sample taken after it.
type Sampling = BoxFuture<'static, anyhow::Result<Sample>>;

/// The state of the view.
struct View {
    before: Option<Sample>,
    now: Sample,
    by: SortKey,
    table: TableState,
    /// The error of the last sample, if it failed.
    problem: Option<String>,
}

/// The action of a key.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    Quit,
    Sort(SortKey),
    Scroll(isize),
    Nothing,
}

/// The terminal in raw mode. Dropping it restores the terminal.
struct Screen(DefaultTerminal);

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Draws the view until the user quits or a signal arrives.
pub(super) async fn show(source: Source, first: Sample, interval: Duration) -> anyhow::Result<()> {
    let (mut term, mut int, mut hup) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?);
    let mut view = View { before: None, now: first, by: SortKey::Name, table: TableState::new(), problem: None };
    // `try_init` also installs a panic hook that restores the terminal.
    let mut screen = Screen(ratatui::try_init()?);
    let mut events = events();
    let mut sampling = next(&source, interval);
    loop {
        screen.0.draw(|frame| view.draw(frame))?;
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => if !view.handle(&event?) { return Ok(()) },
                None => return Ok(()),
            },
            sample = &mut sampling => {
                view.update(sample);
                sampling = next(&source, interval);
            },
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
            _ = hup.recv() => return Ok(()),
        }
    }
}

fn next(source: &Source, after: Duration) -> Sampling {
    let mut source = source.clone();
    Box::pin(async move {
        tokio::time::sleep(after).await;
        source.sample().await
    })
}

/// Key and resize events. The thread that reads them ends when the receiver is dropped.
fn events() -> mpsc::Receiver<std::io::Result<Event>> {
    let (send, events) = mpsc::channel(16);
    tokio::task::spawn_blocking(move || {
        while !send.is_closed() {
            let event = match event::poll(POLL) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            let failed = event.is_err();
            if send.blocking_send(event).is_err() || failed {
                return;
            }
        }
    });
    events
}

impl View {
    /// Returns false when the view is to end.
    fn handle(&mut self, event: &Event) -> bool {
        let Event::Key(key) = event else { return true };
        match action(key) {
            Action::Quit => return false,
            Action::Sort(by) => self.by = by,
            Action::Scroll(by) => {
                let at = self.table.offset().saturating_add_signed(by);
                *self.table.offset_mut() = at.min(self.rows().len().saturating_sub(1));
            }
            Action::Nothing => {}
        }
        true
    }

    fn update(&mut self, sample: anyhow::Result<Sample>) {
        match sample {
            Ok(sample) => {
                self.before = Some(std::mem::replace(&mut self.now, sample));
                self.problem = None;
            }
            // The last sample stays on the screen, and the next one is tried as usual.
            Err(error) => self.problem = Some(format!("{error:#}")),
        }
    }

    fn rows(&self) -> Vec<Row> {
        rows(self.before.as_ref(), &self.now, self.by)
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let parts = Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)]);
        let [head, body, foot] = parts.areas(frame.area());
        frame.render_widget(Line::from(self.summary()).style(Modifier::BOLD), head);
        self.draw_table(frame, body);
        frame.render_widget(Line::from(HELP).style(Modifier::DIM), foot);
    }

    fn summary(&self) -> String {
        let pods = counted(self.now.pods.len(), "pod");
        let containers = counted(self.now.containers.len(), "container");
        let operations = self.now.operations.as_ref();
        let doing = operations.map_or("? operations".to_owned(), |all| counted(all.len(), "operation"));
        let problem = self.problem.iter().chain(&self.now.problems).next();
        let problem = problem.map(|words| format!("   {words}")).unwrap_or_default();
        format!("pontoon top: {pods}, {containers}, {doing} in flight{problem}")
    }

    fn draw_table(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let columns = columns(area.width);
        let rows = self.rows();
        let lines = rows.iter().map(|row| {
            let line = TableRow::new(columns.iter().map(|(_, _, cell)| Cell::from(cell(row))));
            if row.busy > 0 { line.style(Modifier::BOLD) } else { line }
        });
        let titles = columns.iter().map(|(title, ..)| Cell::from(*title));
        let table = Table::new(lines, columns.iter().map(|(_, width, _)| *width));
        let table = table.header(TableRow::new(titles).style(Modifier::REVERSED));
        frame.render_stateful_widget(table, area, &mut self.table);
    }
}

/// The columns for a terminal of this width.
fn columns(width: u16) -> &'static [Column] {
    SETS.iter().find(|(from, _)| width >= *from).map_or(NO_USAGE, |&(_, columns)| columns)
}

/// `1 pod`, `2 pods`
fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn action(key: &KeyEvent) -> Action {
    if key.kind == KeyEventKind::Release {
        return Action::Nothing;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => Action::Quit,
        // In raw mode the terminal does not turn Ctrl-C into a signal.
        KeyCode::Char('c') if control => Action::Quit,
        KeyCode::Char('n') => Action::Sort(SortKey::Name),
        KeyCode::Char('c') => Action::Sort(SortKey::Cpu),
        KeyCode::Char('m') => Action::Sort(SortKey::Memory),
        KeyCode::Char('w') => Action::Sort(SortKey::Network),
        KeyCode::Char('r') => Action::Sort(SortKey::Restarts),
        KeyCode::Char('o') => Action::Sort(SortKey::Busy),
        KeyCode::Up | KeyCode::Char('k') => Action::Scroll(-1),
        KeyCode::Down | KeyCode::Char('j') => Action::Scroll(1),
        KeyCode::PageUp => Action::Scroll(-20),
        KeyCode::PageDown => Action::Scroll(20),
        _ => Action::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::admin::v1::{Operation, Stage};
    use crate::api::v1::{PodSandbox, PodSandboxMetadata};

    fn view(pods: usize) -> View {
        let pod = |number: usize| {
            let metadata = PodSandboxMetadata { name: format!("web-{number:03}"), ..PodSandboxMetadata::default() };
            PodSandbox { id: format!("id{number}"), metadata: Some(metadata), ..PodSandbox::default() }
        };
        let stages = vec![Stage { name: "grace".to_owned(), age_ns: 1, detail: String::new() }];
        let stop =
            Operation { verb: "StopPodSandbox".to_owned(), object: "id1".to_owned(), age_ns: 2_000_000_000, stages };
        let now = Sample { pods: (0..pods).map(pod).collect(), operations: Some(vec![stop]), ..Sample::default() };
        View { before: None, now, by: SortKey::Name, table: TableState::new(), problem: None }
    }

    fn drawn(view: &mut View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect()
    }

    fn press(view: &mut View, code: KeyCode) -> bool {
        view.handle(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
    }

    #[test]
    fn it_fits_into_80_columns_and_24_lines() {
        let lines = drawn(&mut view(3), 80, 24);
        assert!(lines[0].starts_with("pontoon top: 3 pods, 0 containers, 1 operation in flight"), "{lines:#?}");
        assert!(lines[1].starts_with("POD") && lines[1].ends_with("IN FLIGHT"), "{lines:#?}");
        assert!(lines[3].starts_with("web-001") && lines[3].ends_with("StopPodSandbox grace 2s"), "{lines:#?}");
        assert!(lines[23].starts_with("q quit") && lines[23].ends_with("scroll"), "{lines:#?}");
        let wide = drawn(&mut view(3), 120, 24);
        assert!(wide[1].starts_with("NAMESPACE"), "{wide:#?}");
    }

    #[test]
    fn the_pod_is_shown_however_narrow_the_terminal_is() {
        for width in [20, 30, 50, 59, 60, 79, 95, 96, 119, 120, 300] {
            let lines = drawn(&mut view(3), width, 24);
            assert!(lines[1].contains("POD") && lines[2].contains("web"), "{width}: {lines:#?}");
        }
        let lines = drawn(&mut view(3), 50, 24);
        assert!(lines[3].starts_with("web-001") && lines[3].ends_with("StopPodSandbox grace 2s"), "{lines:#?}");
    }

    #[test]
    fn the_plugin_that_hangs_is_shown_from_80_columns_on() {
        for width in [80, 96, 110, 120] {
            let mut view = view(3);
            let add = Stage { name: "cni".to_owned(), age_ns: 1, detail: "ADD bridge".to_owned() };
            let operation = &mut view.now.operations.as_mut().unwrap()[0];
            (operation.verb, operation.stages) = ("RunPodSandbox".to_owned(), vec![add]);
            let lines = drawn(&mut view, width, 24);
            assert!(lines[3].ends_with("RunPodSandbox cni(ADD bridge) 2s"), "{width}: {lines:#?}");
        }
    }

    #[test]
    fn the_summary_counts_in_words() {
        let mut view = view(1);
        assert_eq!(view.summary(), "pontoon top: 1 pod, 0 containers, 1 operation in flight");
        view.now.operations = None;
        assert_eq!(view.summary(), "pontoon top: 1 pod, 0 containers, ? operations in flight");
    }

    #[test]
    fn keys_sort_scroll_and_end_it() {
        let mut view = view(100);
        assert!(press(&mut view, KeyCode::Char('o')));
        assert!(drawn(&mut view, 80, 24)[2].starts_with("web-001"), "what is in flight comes first");
        assert!(press(&mut view, KeyCode::Char('n')));
        assert!(press(&mut view, KeyCode::PageDown));
        assert!(drawn(&mut view, 80, 24)[2].starts_with("web-020"));
        for _ in 0..20 {
            assert!(press(&mut view, KeyCode::PageDown));
        }
        assert!(drawn(&mut view, 80, 24)[2].starts_with("web-"), "it does not scroll out of sight");
        assert!(!press(&mut view, KeyCode::Char('q')));
        let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(action(&control), Action::Quit);
    }

    #[test]
    fn what_is_known_stays_when_the_daemon_is_away() {
        let mut view = view(3);
        view.update(Err(anyhow::anyhow!("nobody there")));
        let lines = drawn(&mut view, 120, 24);
        assert!(lines[0].contains("nobody there") && lines[2].contains("web-000"), "{lines:#?}");
        view.update(Ok(Sample::default()));
        assert!(!drawn(&mut view, 120, 24)[0].contains("nobody there"));
    }
}
