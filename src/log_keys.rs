//! The keys of log lines: the pod, sandbox, container and image that the current task works on.
//!
//! They are a task-local value, which the formatter of the log appends to each line (`daemon/log_format.rs`). So every
//! line of an operation has them, also a line of a module that knows neither pods nor sandboxes. A line that the level
//! filters out costs nothing: the texts are made once for each object, and are shared.

use std::sync::Arc;

use crate::mutex::Mutex;

/// Largest length of a value, in bytes: a client may send a name or an id of any length. A pod's name and namespace from
/// kubelet have at most 317 characters.
const LONGEST: usize = 1024;

tokio::task_local! {
    static CURRENT: SharedKeys;
}

/// What a log line is about. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogKeys {
    /// `namespace/name`.
    pod: Option<Arc<str>>,
    sandbox: Option<Arc<str>>,
    container: Option<Arc<str>>,
    /// The reference in the request.
    image: Option<Arc<str>>,
    /// The name of a container that is being created.
    name: Option<Arc<str>>,
}

impl LogKeys {
    /// The keys of a pod that has no sandbox yet.
    #[must_use]
    pub fn of_pod(namespace: &str, name: &str) -> Self {
        Self { pod: Some(short(&format!("{namespace}/{name}"))), ..Self::default() }
    }

    /// The keys of an image.
    #[must_use]
    pub fn of_image(reference: &str) -> Self {
        Self { image: Some(short(reference)), ..Self::default() }
    }

    /// The same keys with a sandbox's id.
    #[must_use]
    pub fn with_sandbox(self, id: &str) -> Self {
        Self { sandbox: Some(short(id)), ..self }
    }

    /// The same keys with a container's id.
    #[must_use]
    pub fn with_container(self, id: &str) -> Self {
        Self { container: Some(short(id)), ..self }
    }

    /// The keys of a container that has no id yet.
    #[must_use]
    pub fn of_container_name(name: &str) -> Self {
        Self { name: Some(short(name)), ..Self::default() }
    }

    /// The names and values of the keys that are set.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [
            ("pod", &self.pod),
            ("sandbox", &self.sandbox),
            ("container", &self.container),
            ("image", &self.image),
            ("name", &self.name),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }

    /// Removes the key with this name, if there is one.
    pub fn remove(&mut self, name: &str) {
        match name {
            "pod" => self.pod = None,
            "sandbox" => self.sandbox = None,
            "container" => self.container = None,
            "image" => self.image = None,
            "name" => self.name = None,
            _ => {}
        }
    }

    /// Sets the keys that `other` has.
    fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.pod, &other.pod),
            (&mut self.sandbox, &other.sandbox),
            (&mut self.container, &other.container),
            (&mut self.image, &other.image),
            (&mut self.name, &other.name),
        ] {
            if theirs.is_some() {
                mine.clone_from(theirs);
            }
        }
    }
}

fn short(text: &str) -> Arc<str> {
    if text.len() <= LONGEST {
        return text.into();
    }
    format!("{}...", &text[..text.floor_char_boundary(LONGEST)]).into()
}

/// The keys of a task, which its code completes when it learns more. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct SharedKeys(Arc<Mutex<LogKeys>>);

impl SharedKeys {
    /// A copy of the current task's keys.
    #[must_use]
    pub fn copy_of_current() -> Self {
        Self::from(current_keys())
    }

    /// Runs `work` with these keys.
    pub fn scope<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, work)
    }

    #[must_use]
    pub fn get(&self) -> LogKeys {
        self.0.lock().clone()
    }
}

impl From<LogKeys> for SharedKeys {
    fn from(keys: LogKeys) -> Self {
        Self(Arc::new(Mutex::new(keys)))
    }
}

/// The keys of the current task.
#[must_use]
pub fn current_keys() -> LogKeys {
    CURRENT.try_with(SharedKeys::get).unwrap_or_default()
}

/// Adds to the keys of the current task. Does nothing in a task without keys, such as that of a call that only reads.
pub fn add_keys(keys: &LogKeys) {
    let _ = CURRENT.try_with(|current| current.0.lock().add(keys));
}

/// Runs `work` with these keys.
pub fn with_keys<F: Future>(keys: LogKeys, work: F) -> impl Future<Output = F::Output> {
    SharedKeys::from(keys).scope(work)
}

/// Calls `work` with these keys. Tasks that it spawns have them too.
pub fn call_with_keys<T>(keys: LogKeys, work: impl FnOnce() -> T) -> T {
    CURRENT.sync_scope(SharedKeys::from(keys), work)
}

/// Runs `work`, which is for another task, with a copy of the current task's keys. A copy, because the keys that the
/// new task adds must not get into the log lines of the task that started it.
pub fn inherit_keys<F: Future>(work: F) -> impl Future<Output = F::Output> {
    SharedKeys::copy_of_current().scope(work)
}

/// A closure for another thread, which works for the current task and shares its keys.
pub fn inherit_keys_in<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let keys = CURRENT.try_with(SharedKeys::clone).unwrap_or_default();
    move || CURRENT.sync_scope(keys, work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::joined::run_blocking;
    use crate::tasks::Tasks;

    fn shown() -> String {
        current_keys().iter().map(|(name, value)| format!("{name}={value} ")).collect()
    }

    #[tokio::test]
    async fn keys_are_completed_as_more_is_known() {
        assert_eq!(shown(), "");
        add_keys(&LogKeys::of_image("nowhere"));
        assert_eq!(shown(), "", "a task without keys stays without");
        let keys = with_keys(LogKeys::of_pod("default", "web"), async {
            add_keys(&LogKeys::default().with_sandbox("typed"));
            let before = shown();
            add_keys(&LogKeys::of_pod("default", "web").with_sandbox("full").with_container("c"));
            (before, shown())
        });
        let expected = ("pod=default/web sandbox=typed ", "pod=default/web sandbox=full container=c ");
        assert_eq!(keys.await, (expected.0.to_owned(), expected.1.to_owned()));
    }

    #[tokio::test]
    async fn spawned_work_and_other_threads_have_the_keys_of_their_task() {
        let tasks = Tasks::default();
        let keys = with_keys(LogKeys::default().with_container("c"), async {
            let background = tasks.background(async { shown() });
            let operation = tasks.operation(async { shown() });
            let thread = run_blocking(shown);
            let other = tasks.background(async { add_keys(&LogKeys::default().with_container("other")) });
            other.await.unwrap();
            [background.await.unwrap(), operation.await.unwrap(), thread.await, shown()]
        });
        assert_eq!(keys.await, ["container=c "; 4]);
        assert_eq!(call_with_keys(LogKeys::of_image("i"), shown), "image=i ");
    }

    #[test]
    fn a_value_is_short_and_a_key_can_be_removed() {
        let mut keys = LogKeys::of_pod("default", &"\u{1f980}".repeat(5000)).with_sandbox("s");
        let (_, pod) = keys.iter().next().unwrap();
        assert!(pod.len() <= LONGEST + 3 && pod.ends_with("\u{1f980}..."), "{} bytes", pod.len());
        keys.remove("pod");
        assert_eq!(keys, LogKeys::default().with_sandbox("s"));
    }
}
