//! CRI's proto, and the pages in docs/ that list its fields in their first column: shared by the tests that compare the
//! two.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

pub const PROTO: &str = "proto/k8s.io/cri-api/api.proto";

/// The declarations of a proto.
#[derive(Default)]
pub struct Proto {
    /// The fields of each message: the words of the type, and the name.
    pub messages: BTreeMap<String, Vec<(Vec<String>, String)>>,
    /// The request messages of the services' methods.
    pub requests: Vec<String>,
    /// The response messages of the methods.
    pub responses: Vec<String>,
}

/// The words and the punctuation of a proto, without comments.
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

/// CRI's proto nests no messages, so a message ends at the brace that closes its own opening brace.
pub fn parse(text: &str) -> Proto {
    let tokens = tokens(text);
    let mut proto = Proto::default();
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].as_str() {
            "message" => at = message(&tokens, at + 1, &mut proto),
            // `rpc Name(Request) returns (Response) {}`
            "rpc" => {
                let asked = if tokens[at + 3] == "stream" { at + 4 } else { at + 3 };
                proto.requests.push(tokens[asked].clone());
                at = asked;
            }
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

/// Reads the message whose name is at `at`. Returns the position after its end.
fn message(tokens: &[String], at: usize, proto: &mut Proto) -> usize {
    let (mut depth, mut statement, mut fields) = (1, Vec::new(), Vec::new());
    for (place, token) in tokens.iter().enumerate().skip(at + 2) {
        match token.as_str() {
            // A oneof, whose name is not a field.
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

/// `repeated Type name = 1`. A reserved number or an option is not a field.
fn field(statement: &[String]) -> Option<(Vec<String>, String)> {
    if ["reserved", "option"].contains(&statement.first()?.as_str()) {
        return None;
    }
    let equals = statement.iter().position(|word| word == "=")?;
    let (types, name) = statement[..equals].split_at(equals - 1);
    Some((types.to_vec(), name[0].clone()))
}

impl Proto {
    /// All fields of the given messages and of the messages within them, as `Message.field` with the words of the type.
    /// A message without fields is listed by its name.
    pub fn fields(&self, of: &[String]) -> BTreeMap<String, Vec<String>> {
        let mut found = BTreeMap::new();
        let (mut seen, mut due) = (BTreeSet::new(), of.to_vec());
        while let Some(message) = due.pop() {
            let Some(fields) = self.messages.get(&message) else { continue };
            if !seen.insert(message.clone()) {
                continue;
            }
            if fields.is_empty() {
                found.insert(message.clone(), Vec::new());
            }
            for (types, name) in fields {
                found.insert(format!("{message}.{name}"), types.clone());
                due.extend(types.iter().cloned());
            }
        }
        found
    }
}

/// The text of a file of the repository.
pub fn text(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The `Message.field` names in the first cell of each row of a page's tables. `.other` is another field of the same
/// message.
pub fn documented(part: &str) -> Vec<String> {
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
