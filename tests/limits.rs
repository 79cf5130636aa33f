//! docs/limits.md must list every request field whose size a client chooses, and no field that does not exist. The
//! fields are read from the proto, so a new version of CRI fails here until the page says what bounds its new fields.
//! The page also says how `make abuse` judges the times of an attack's victim.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/proto.rs"]
mod proto;
#[path = "e2e/abuse/times.rs"]
mod times;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use proto::{PROTO, Proto, documented, parse, text};
use times::{ALLOWED, Allowed, CALLS, Comparison, Round, Times, within_limits};

/// The heading of the page's section about requests.
const PART: &str = "## Fields of requests";
const PAGE: &str = "docs/limits.md";

/// The fields without a fixed size. Numbers, booleans and enums have one; a message that is not repeated is as large as
/// its own fields.
fn sized(proto: &Proto) -> BTreeSet<String> {
    let fields: BTreeMap<String, Vec<String>> = proto.fields(&proto.requests);
    let has_size =
        |types: &[String]| types.iter().any(|word| ["string", "bytes", "repeated", "map"].contains(&word.as_str()));
    fields.into_iter().filter(|(_, types)| has_size(types)).map(|(field, _)| field).collect()
}

/// The rows of the section, up to the next heading.
fn part(page: &str) -> &str {
    let part = page.split_once(PART).expect("the page has no such part").1;
    part.split_once("\n## ").map_or(part, |(part, _)| part)
}

#[test]
fn every_field_of_a_request_that_has_a_size_has_a_bound() {
    let wanted = sized(&parse(&text(PROTO)));
    // cri-api v0.37.2 has 121.
    assert!(wanted.len() > 100, "the proto was not read: {wanted:?}");
    let page = text(PAGE);
    let documented = documented(part(&page));
    let known: BTreeSet<String> = documented.iter().cloned().collect();
    let missing: Vec<_> = wanted.difference(&known).collect();
    let unknown: Vec<_> = known.difference(&wanted).collect();
    assert!(missing.is_empty(), "{PAGE} does not say what bounds these: {missing:#?}");
    assert!(unknown.is_empty(), "{PAGE} has what no request has, or what has no size: {unknown:#?}");
    assert_eq!(documented.len(), known.len(), "{PAGE} has a field twice");
}

#[test]
fn each_row_says_all_of_it_and_names_files_that_there_are() {
    let page = text(PAGE);
    let is_head = |row: &&str| row.starts_with("| what") || row.starts_with("|---");
    for row in page.lines().filter(|line| line.starts_with('|') && !is_head(line)) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert!(cells.len() == 5 && cells.iter().all(|cell| !cell.is_empty()), "{row}");
        let held_by = cells[4]
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|name| name.starts_with("src/") || name.starts_with("tests/"));
        for file in held_by {
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(file).exists(), "there is no {file}: {row}");
        }
    }
}

#[test]
fn a_field_has_a_size_if_a_client_chooses_it() {
    let proto = parse(
        "message A { string a = 1; int64 b = 2; B c = 3; repeated int32 d = 4; Kind e = 5; }\n\
         message B { map<string, string> f = 1; bytes g = 2; bool h = 3; repeated C i = 4; }\nmessage C { int32 j = 1; }\n\
         message D { string k = 1; }\nservice S { rpc X(A) returns (D) {} }",
    );
    assert_eq!(sized(&proto).into_iter().collect::<Vec<_>>(), ["A.a", "A.d", "B.f", "B.g", "B.i"]);
    assert_eq!(part("x\n## Fields of requests\n| `A.a`\n\n## Else\n| `B.f`"), "\n| `A.a`\n");
}

/// Milliseconds of a pod start, an exec and lists.
fn round(millis: [u64; 3]) -> Round {
    millis.map(Duration::from_millis)
}

fn rounds(all: &[[u64; 3]]) -> Times {
    let mut times = Times::default();
    all.iter().for_each(|&millis| times.add(round(millis)));
    times
}

/// Judges rounds beside an attack. Without it, they take 150, 25 and 3 ms.
fn judge(beside: &[[u64; 3]], allowed: &[Allowed; 3]) -> Result<(), String> {
    let (alone, beside) = (rounds(&[[150, 25, 3]; 5]), rounds(beside));
    Comparison { alone: &alone, beside: &beside }.judge(allowed).map_err(|error| error.to_string())
}

#[test]
fn a_victim_suffers_if_it_waits_longer_both_in_proportion_and_in_time() {
    // Many times as long, but by no more than is allowed.
    assert_eq!(judge(&[[650, 125, 103]], &ALLOWED), Ok(()));
    for (call, beside) in CALLS.iter().zip([[651, 25, 3], [150, 126, 3], [150, 25, 104]]) {
        let error = judge(&[beside], &ALLOWED).unwrap_err();
        assert!(error.starts_with(&format!("the victim's {call} takes ")), "{error}");
    }
    // By more than is allowed, but no more than 1.5 times as long.
    let alone = rounds(&[[1200, 300, 300]]);
    let verdict = |beside: [u64; 3]| Comparison { alone: &alone, beside: &rounds(&[beside]) }.judge(&ALLOWED).is_ok();
    assert!(verdict([1800, 450, 450]));
    assert!(!verdict([1800, 451, 450]));
    // Where only the limit counts.
    assert_eq!(judge(&[[9000, 25, 3]], &ALLOWED.map(|allowed| Allowed { more: None, ..allowed })), Ok(()));
}

#[test]
fn the_median_of_a_victims_rounds_is_judged() {
    assert_eq!(judge(&[[1900, 25, 3], [150, 1900, 3], [150, 25, 3]], &ALLOWED), Ok(()));
    assert!(judge(&[[1900, 25, 3], [1900, 25, 3], [150, 25, 3]], &ALLOWED).is_err());
}

#[test]
fn an_attack_that_is_over_before_its_victims_first_round_shows_nothing() {
    let error = judge(&[], &ALLOWED).unwrap_err();
    assert_eq!(error, "the attack was over before the victim's first round");
}

#[test]
fn no_single_call_of_a_victim_takes_two_seconds() {
    within_limits(&round([1999, 1999, 1999]), &ALLOWED).unwrap();
    let error = within_limits(&round([150, 2000, 3]), &ALLOWED).unwrap_err();
    assert_eq!(error.to_string(), "the victim's exec took 2s");
}

#[test]
fn a_victims_times_are_printed_with_and_without_the_attack_and_their_factor() {
    let (alone, beside) = (rounds(&[[150, 25, 2]; 5]), rounds(&[[300, 25, 3], [100, 25, 3], [600, 25, 3]]));
    let printed = Comparison { alone: &alone, beside: &beside }.to_string();
    assert_eq!(
        printed,
        "pod start 150.0 ms alone, 300.0 ms beside the attack (2.0 times, at most 600.0 ms); \
         exec 25.0 ms alone, 25.0 ms beside the attack (1.0 times, at most 25.0 ms); \
         lists 2.0 ms alone, 3.0 ms beside the attack (1.5 times, at most 3.0 ms); medians of 5 and 3 rounds"
    );
}
