//! docs/limits.md must list every request field whose size a client chooses, and no field that does not exist. The
//! fields are read from the proto, so a new version of CRI fails here until the page says what bounds its new fields.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/proto.rs"]
mod proto;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proto::{PROTO, Proto, documented, parse, text};

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
