//! docs/fields.md must list each field of each response of CRI's two services, and no field that does not exist. The fields
//! are read from the proto, so a new version of CRI fails here until the page says where its new fields come from.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/proto.rs"]
mod proto;

use std::collections::BTreeSet;

use proto::{PROTO, documented, parse, text};

/// The heading of the page's part about responses.
const PART: &str = "# Fields of responses";

fn part(page: &str) -> &str {
    page.split_once(PART).expect("the page has no such part").1
}

#[test]
fn every_field_of_a_response_is_documented_and_no_other() {
    let proto = parse(&text(PROTO));
    let wanted: BTreeSet<String> = proto.fields(&proto.responses).into_keys().collect();
    // cri-api v0.37.2 has 288 fields of 90 messages, and 13 messages without any.
    assert!(wanted.len() > 250, "the proto was not read: {wanted:?}");
    let page = text("docs/fields.md");
    let documented = documented(part(&page));
    let known: BTreeSet<String> = documented.iter().cloned().collect();
    let missing: Vec<_> = wanted.difference(&known).collect();
    let unknown: Vec<_> = known.difference(&wanted).collect();
    assert!(missing.is_empty(), "docs/fields.md does not say where these come from: {missing:#?}");
    assert!(unknown.is_empty(), "docs/fields.md has what no response has: {unknown:#?}");
    assert_eq!(documented.len(), known.len(), "docs/fields.md has a field twice");
}

#[test]
fn each_row_says_where_it_comes_from() {
    let page = text("docs/fields.md");
    for row in part(&page).lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert!(cells.len() == 5 && !cells[2].is_empty() && !cells[3].is_empty(), "{row}");
    }
}

#[test]
fn a_proto_is_read_with_its_oneofs_maps_and_empty_messages() {
    let proto = parse(
        "// message No { }\nmessage A { repeated B b = 1; // x\n reserved 2; oneof c { string d = 3; int64 e = 4; }\n\
         map<string, F> f = 5 [debug_redact = true]; }\nmessage B{}\nmessage F { string g = 1; }\nmessage H { string i = 1; }\n\
         service S { rpc X(H) returns (stream A) {} }",
    );
    let answered: Vec<String> = proto.fields(&proto.responses).into_keys().collect();
    assert_eq!(answered, ["A.b", "A.d", "A.e", "A.f", "B", "F.g"]);
    assert_eq!(proto.fields(&proto.requests).into_keys().collect::<Vec<_>>(), ["H.i"]);
}
