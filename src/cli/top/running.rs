//! How many containers of a pod run, of those that are to run.
//!
//! An init container that has succeeded is done: it is not to run again. CRI does not tell init containers from others,
//! but kubelet creates a container for the first time only when each init container before it has ended with code 0, or
//! runs as a sidecar. So a container is done if it ended with code 0 before another container of its pod was created for
//! the first time. A main container that ends is not done, whatever its code: the others were created before its end.

use std::collections::{BTreeMap, HashMap};

use crate::api::v1::{Container, ContainerState};

/// How a container has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) code: i32,
    /// In nanoseconds since 1970, as CRI's times are.
    pub(super) finished_at: i64,
}

/// The attempts of one container of a pod.
struct Attempts<'a> {
    /// The only one that counts: kubelet keeps ended attempts for their logs.
    newest: &'a Container,
    first_created: i64,
}

/// The containers of a pod, by name.
struct Pod<'a>(BTreeMap<&'a str, Attempts<'a>>);

impl<'a> Pod<'a> {
    fn new(containers: impl IntoIterator<Item = &'a Container>) -> Self {
        let mut pod = BTreeMap::new();
        for one in containers {
            let (name, _) = name_and_attempt(one);
            let known = pod.entry(name).or_insert(Attempts { newest: one, first_created: one.created_at });
            known.first_created = known.first_created.min(one.created_at);
            if name_and_attempt(one) > name_and_attempt(known.newest) {
                known.newest = one;
            }
        }
        Self(pod)
    }

    /// Whether another container was created for the first time after this moment.
    fn goes_on_after(&self, name: &str, moment: i64) -> bool {
        self.0.iter().any(|(other, attempts)| *other != name && attempts.first_created > moment)
    }
}

fn name_and_attempt(container: &Container) -> (&str, u32) {
    container.metadata.as_ref().map_or(("", 0), |metadata| (metadata.name.as_str(), metadata.attempt))
}

/// The ids of the ended containers that may be done, which their exits decide.
pub(super) fn may_be_done(containers: &[Container]) -> Vec<&str> {
    let mut pods: HashMap<&str, Vec<&Container>> = HashMap::new();
    for one in containers {
        pods.entry(&one.pod_sandbox_id).or_default().push(one);
    }
    let mut found = Vec::new();
    for pod in pods.into_values().map(Pod::new) {
        let ended = pod.0.iter().filter(|(_, one)| one.newest.state() == ContainerState::ContainerExited);
        let followed = ended.filter(|(name, one)| pod.goes_on_after(name, one.newest.created_at));
        found.extend(followed.map(|(_, one)| one.newest.id.as_str()));
    }
    found
}

/// The number of running containers of a pod, and of all that are not done.
pub(super) fn count(containers: &[&Container], exits: &HashMap<String, Exit>) -> (usize, usize) {
    let pod = Pod::new(containers.iter().copied());
    let is_done = |name: &str, one: &Container| {
        one.state() == ContainerState::ContainerExited
            && exits.get(&one.id).is_some_and(|exit| exit.code == 0 && pod.goes_on_after(name, exit.finished_at))
    };
    let done = pod.0.iter().filter(|(name, one)| is_done(name, one.newest)).count();
    let runs = |one: &&Attempts<'_>| one.newest.state() == ContainerState::ContainerRunning;
    (pod.0.values().filter(runs).count(), pod.0.len() - done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1::ContainerMetadata;

    /// A container whose id is its name and attempt, such as `main-0`.
    fn container(id: &str, created_at: i64, state: ContainerState) -> Container {
        let (name, attempt) = id.split_once('-').unwrap();
        let metadata = ContainerMetadata { name: name.to_owned(), attempt: attempt.parse().unwrap() };
        Container {
            id: id.to_owned(),
            pod_sandbox_id: "p".to_owned(),
            metadata: Some(metadata),
            state: state.into(),
            created_at,
            ..Container::default()
        }
    }

    /// What is counted of a pod in which these containers have ended, each with a code and a time.
    fn counted(containers: &[Container], ended: &[(&str, i32, i64)]) -> (usize, usize) {
        let exit = |&(id, code, finished_at): &(&str, i32, i64)| (id.to_owned(), Exit { code, finished_at });
        count(&containers.iter().collect::<Vec<_>>(), &ended.iter().map(exit).collect())
    }

    const RUNS: ContainerState = ContainerState::ContainerRunning;
    const ENDED: ContainerState = ContainerState::ContainerExited;

    #[test]
    fn an_init_container_that_has_succeeded_does_not_count() {
        let all = [
            container("fetch-0", 10, ENDED),
            container("unpack-0", 20, ENDED),
            container("main-0", 30, RUNS),
            container("side-0", 31, RUNS),
        ];
        assert_eq!(may_be_done(&all), ["fetch-0", "unpack-0"]);
        assert_eq!(counted(&all, &[("fetch-0", 0, 15), ("unpack-0", 0, 25)]), (2, 2));
        assert_eq!(counted(&all, &[]), (2, 4), "what is not known is not done");
        // While the last init container runs, the others do not exist yet.
        assert_eq!(
            counted(&[container("fetch-0", 10, ENDED), container("unpack-0", 20, RUNS)], &[("fetch-0", 0, 15)]),
            (1, 1)
        );
    }

    #[test]
    fn an_init_container_that_has_failed_counts() {
        let all = [container("fetch-0", 10, ENDED)];
        assert_eq!(counted(&all, &[("fetch-0", 1, 15)]), (0, 1));
        assert_eq!(may_be_done(&all), [""; 0], "nothing follows it");
    }

    #[test]
    fn a_main_container_that_has_ended_counts_whatever_its_code() {
        // The second one is also created after the first, but not after its end, and its later attempts say nothing.
        let all = [container("main-0", 10, ENDED), container("side-0", 11, ENDED), container("side-1", 40, RUNS)];
        for code in [0, 1] {
            assert_eq!(counted(&all, &[("main-0", code, 20), ("side-0", 1, 30)]), (1, 2));
        }
    }

    #[test]
    fn only_the_newest_attempt_of_a_container_counts() {
        let all = [container("main-1", 30, ENDED), container("main-2", 50, RUNS), container("main-0", 10, ENDED)];
        assert_eq!(counted(&all, &[("main-0", 1, 20), ("main-1", 0, 40)]), (1, 1));
        assert_eq!(may_be_done(&all), [""; 0]);
    }

    #[test]
    fn containers_of_other_pods_say_nothing() {
        let other = Container { pod_sandbox_id: "q".to_owned(), ..container("main-0", 30, RUNS) };
        assert_eq!(may_be_done(&[container("fetch-0", 10, ENDED), other]), [""; 0]);
    }
}
