//! docs/fields.md has every field of every response that CRI's two services give, and no field that there is not. Read from the
//! proto, so that a new version of CRI fails here until somebody has said where its fields come from.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The part of the page that is about responses.
const PART: &str = "# Fields of responses";

/// What a proto declares.
#[derive(Default)]
struct Proto {
    /// Each message's fields: the words of its type, and its name.
    messages: BTreeMap<String, Vec<(Vec<String>, String)>>,
    /// What the services' calls answer.
    responses: Vec<String>,
}

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The words and the punctuation of a proto, without its comments.
fn tokens(text: &str) -> Vec<String> {
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let mut tokens = Vec::new();
    let mut word = String::new();
    for c in code.flat_map(|line| line.chars().chain(['\n'])) {
        if c.is_alphanumeric() || c == '_' || c == '.' {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            tokens.push(std::mem::take(&mut word));
        }
        if !c.is_whitespace() {
            tokens.push(c.to_string());
        }
    }
    tokens
}

/// CRI's proto nests no messages, so that a message ends at the first brace that closes more than was opened in it.
fn parse(text: &str) -> Proto {
    let tokens = tokens(text);
    let mut proto = Proto::default();
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].as_str() {
            "message" => at = message(&tokens, at + 1, &mut proto),
            "returns" => {
                let answer = if tokens[at + 2] == "stream" { at + 3 } else { at + 2 };
                proto.responses.push(tokens[answer].clone());
                at = answer;
            }
            _ => at += 1,
        }
    }
    proto
}

/// Reads the message whose name is at `at`; gives where it ends.
fn message(tokens: &[String], at: usize, proto: &mut Proto) -> usize {
    let (mut depth, mut statement, mut fields) = (1, Vec::new(), Vec::new());
    for (place, token) in tokens.iter().enumerate().skip(at + 2) {
        match token.as_str() {
            // Of a oneof: its name is no field.
            "{" => {
                depth += 1;
                statement.clear();
            }
            "}" => {
                depth -= 1;
                if depth == 0 {
                    proto.messages.insert(tokens[at].clone(), fields);
                    return place + 1;
                }
            }
            ";" => fields.extend(field(&std::mem::take(&mut statement))),
            word => statement.push(word.to_owned()),
        }
    }
    panic!("message {} has no end", tokens[at]);
}

/// `repeated Type name = 1`; a reserved number or an option is no field.
fn field(statement: &[String]) -> Option<(Vec<String>, String)> {
    if ["reserved", "option"].contains(&statement.first()?.as_str()) {
        return None;
    }
    let equals = statement.iter().position(|word| word == "=")?;
    let (types, name) = statement[..equals].split_at(equals - 1);
    Some((types.to_vec(), name[0].clone()))
}

impl Proto {
    /// `Message.field` of all that a response can have in it; a message without fields by its name alone.
    fn answered(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let (mut seen, mut due) = (BTreeSet::new(), self.responses.clone());
        while let Some(message) = due.pop() {
            let Some(fields) = self.messages.get(&message) else { continue };
            if !seen.insert(message.clone()) {
                continue;
            }
            if fields.is_empty() {
                found.insert(message.clone());
            }
            for (types, name) in fields {
                found.insert(format!("{message}.{name}"));
                due.extend(types.iter().cloned());
            }
        }
        found
    }
}

/// `Message.field` of the first cell of each row of the part's tables, where `.other` is another field of the same message.
fn documented(page: &str) -> Vec<String> {
    let part = page.split_once(PART).expect("the page has no such part").1;
    let mut found = Vec::new();
    for row in part.lines().filter(|line| line.starts_with("| `")) {
        let cell = row.split('|').nth(1).unwrap();
        let mut message = "";
        for name in cell.split('`').skip(1).step_by(2) {
            match name.strip_prefix('.') {
                Some(field) => found.push(format!("{message}.{field}")),
                None => {
                    message = name.split('.').next().unwrap();
                    found.push(name.to_owned());
                }
            }
        }
    }
    found
}

#[test]
fn every_field_of_a_response_is_documented_and_no_other() {
    let wanted = parse(&text("proto/k8s.io/cri-api/api.proto")).answered();
    // cri-api v0.37.2 has 288 fields of 90 messages, and 13 messages without any.
    assert!(wanted.len() > 250, "the proto was not read: {wanted:?}");
    let page = text("docs/fields.md");
    let documented = documented(&page);
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
    let part = page.split_once(PART).expect("the page has no such part").1;
    for row in part.lines().filter(|line| line.starts_with("| `")) {
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
    let answered: Vec<String> = proto.answered().into_iter().collect();
    assert_eq!(answered, ["A.b", "A.d", "A.e", "A.f", "B", "F.g"]);
}
