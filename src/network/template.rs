//! The config template for nodes without a CNI daemon. It supports the part of Go's templates that containerd documents
//! for this purpose (docs/cri/config.md, "CNI Config Template").
//!
//! ```text
//! {{.PodCIDR}}                                      the first CIDR
//! {{range $i, $r := .PodCIDRRanges}} ... {{end}}    all of them; $i and $r may be left out
//! {{range $i, $r := .Routes}} ... {{end}}           0.0.0.0/0 and ::/0, for the address families of the CIDRs
//! {{$r}} {{$i}} {{.}} {{if $i}}, {{end}}            within a range
//! ```

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::iter::Peekable;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::vec::IntoIter;

use super::config::{LARGEST_FILE, NetworkConfig};
use super::error::{Error, TemplateError};
use crate::sys::{read, write};

/// The name of the config file that is written.
pub(super) const FILE_NAME: &str = "10-pontoon.conflist";

/// An IP address and a prefix length, as kubelet passes them for a node's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpCidr {
    address: IpAddr,
    prefix: u8,
}

/// A string that is not an IP address with a prefix length.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0:?} is not a CIDR")]
pub struct InvalidCidr(String);

impl FromStr for IpCidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let (address, prefix): (IpAddr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
            let most = if address.is_ipv4() { 32 } else { 128 };
            (prefix <= most).then_some(Self { address, prefix })
        };
        parse().ok_or_else(|| InvalidCidr(text.chars().take(64).collect()))
    }
}

impl fmt::Display for IpCidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Renders and writes the config, unless the file already has the same content.
pub(super) fn write(source: &Path, target: &Path, cidrs: &[IpCidr]) -> Result<Option<PathBuf>, Error> {
    let failed = |path: &Path, source: TemplateError| Error::Template { path: path.to_owned(), source };
    let template = read::text(source, LARGEST_FILE).map_err(|error| failed(source, error.into()))?;
    let config = render(&template, cidrs).map_err(|error| failed(source, error))?;
    NetworkConfig::from_list(config.as_bytes()).map_err(|why| failed(source, TemplateError::Invalid(why)))?;
    replace(target, &config).map_err(|error| failed(target, error.into()))?;
    Ok(Some(target.to_owned()))
}

fn replace(target: &Path, config: &str) -> io::Result<()> {
    if read::regular(target, LARGEST_FILE).is_ok_and(|now| now == config.as_bytes()) {
        return Ok(());
    }
    if let Some(dir) = target.parent() {
        fs::create_dir_all(dir)?;
    }
    // The extension keeps the half-written file from being loaded.
    let unfinished = target.with_extension("tmp");
    write::replace(&unfinished, 0o644)?.write_all(config.as_bytes())?;
    fs::rename(&unfinished, target)
}

/// A part of a template.
#[derive(Debug)]
enum Node {
    Text(String),
    PodCidr,
    Index,
    Item,
    Range(List, Vec<Node>),
    /// The body of `if $i`, the only condition that is supported: true in every iteration but the first.
    UnlessFirst(Vec<Node>),
}

#[derive(Clone, Copy, Debug)]
enum List {
    PodCidrRanges,
    Routes,
}

/// The variable names of the range that is being parsed.
#[derive(Clone, Default)]
struct Scope {
    index: Option<String>,
    item: Option<String>,
}

/// Literal text, or the content of a pair of double braces.
enum Token {
    Text(String),
    Action(String),
}

fn render(template: &str, cidrs: &[IpCidr]) -> Result<String, TemplateError> {
    let mut tokens = tokens(template)?.into_iter().peekable();
    let nodes = parse(&mut tokens, None)?;
    if tokens.next().is_some() {
        return Err(TemplateError::Unsupported("end".to_owned()));
    }
    let mut text = String::new();
    print(&nodes, cidrs, (0, ""), &mut text);
    Ok(text)
}

fn tokens(template: &str) -> Result<Vec<Token>, TemplateError> {
    let mut tokens = Vec::new();
    let mut rest = template;
    while let Some((text, after)) = rest.split_once("{{") {
        let Some((action, after)) = after.split_once("}}") else {
            return Err(TemplateError::NotClosed("{{".to_owned()));
        };
        // A dash and a space inside the braces trim the whitespace outside of them.
        let (text, action) = match action.strip_prefix("- ") {
            Some(action) => (text.trim_end(), action),
            None => (text, action),
        };
        let (action, after) = match action.strip_suffix(" -") {
            Some(action) => (action, after.trim_start()),
            None => (action, after),
        };
        tokens.push(Token::Text(text.to_owned()));
        tokens.push(Token::Action(action.split_whitespace().collect::<Vec<_>>().join(" ")));
        rest = after;
    }
    tokens.push(Token::Text(rest.to_owned()));
    Ok(tokens)
}

/// Parses up to an `end`, which is not consumed, or to the end of the template. Ranges cannot be nested, so the
/// recursion is at most three deep.
fn parse(tokens: &mut Peekable<IntoIter<Token>>, scope: Option<&Scope>) -> Result<Vec<Node>, TemplateError> {
    let mut nodes = Vec::new();
    while let Some(token) = tokens.next_if(|token| !matches!(token, Token::Action(action) if action == "end")) {
        let action = match token {
            Token::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Token::Action(action) => action,
        };
        let named = |name: Option<&String>| name == Some(&action);
        let node = match (action.as_str(), scope) {
            (".PodCIDR", None) | ("$.PodCIDR", _) => Node::PodCidr,
            (".", Some(_)) => Node::Item,
            (_, Some(scope)) if named(scope.item.as_ref()) => Node::Item,
            (_, Some(scope)) if named(scope.index.as_ref()) => Node::Index,
            (_, Some(scope)) if scope.index.as_ref().is_some_and(|index| action == format!("if {index}")) => {
                // Without an index in scope, a second `if` cannot be nested in this one.
                let inner = Scope { index: None, item: scope.item.clone() };
                Node::UnlessFirst(body(tokens, &inner, &action)?)
            }
            (_, None) => {
                let (list, scope) = range(&action).ok_or_else(|| TemplateError::Unsupported(action.clone()))?;
                Node::Range(list, body(tokens, &scope, &action)?)
            }
            (_, Some(_)) => return Err(TemplateError::Unsupported(action)),
        };
        nodes.push(node);
    }
    Ok(nodes)
}

fn body(tokens: &mut Peekable<IntoIter<Token>>, scope: &Scope, action: &str) -> Result<Vec<Node>, TemplateError> {
    let nodes = parse(tokens, Some(scope))?;
    tokens.next().map(|_| nodes).ok_or_else(|| TemplateError::NotClosed(format!("{{{{{action}}}}}")))
}

/// Parses `range .List`, `range $item := .List` or `range $index, $item := .List`.
fn range(action: &str) -> Option<(List, Scope)> {
    let rest = action.strip_prefix("range ")?;
    let (names, list) = rest.split_once(":=").map_or((None, rest), |(names, list)| (Some(names), list));
    let list = match list.trim() {
        ".PodCIDRRanges" => List::PodCidrRanges,
        ".Routes" => List::Routes,
        _ => return None,
    };
    let Some(names) = names else { return Some((list, Scope::default())) };
    let variable = |name: &str| {
        let name = name.trim();
        let rest = name.strip_prefix('$')?;
        let fits = !rest.is_empty() && rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        fits.then(|| name.to_owned())
    };
    let scope = match names.split_once(',') {
        Some((index, item)) => Scope { index: Some(variable(index)?), item: Some(variable(item)?) },
        None => Scope { index: None, item: Some(variable(names)?) },
    };
    Some((list, scope))
}

fn print(nodes: &[Node], cidrs: &[IpCidr], round: (usize, &str), text: &mut String) {
    for node in nodes {
        match node {
            Node::Text(literal) => text.push_str(literal),
            Node::PodCidr => text.push_str(&cidrs.first().map(ToString::to_string).unwrap_or_default()),
            Node::Index => text.push_str(&round.0.to_string()),
            Node::Item => text.push_str(round.1),
            Node::UnlessFirst(body) if round.0 > 0 => print(body, cidrs, round, text),
            Node::UnlessFirst(_) => {}
            Node::Range(list, body) => {
                for (index, item) in list.items(cidrs).iter().enumerate() {
                    print(body, cidrs, (index, item), text);
                }
            }
        }
    }
}

impl List {
    fn items(self, cidrs: &[IpCidr]) -> Vec<String> {
        match self {
            Self::PodCidrRanges => cidrs.iter().map(ToString::to_string).collect(),
            Self::Routes => {
                let has = |ipv4: bool| cidrs.iter().any(|cidr| cidr.address.is_ipv4() == ipv4);
                let routes = [(has(true), "0.0.0.0/0"), (has(false), "::/0")];
                routes.into_iter().filter(|(needed, _)| *needed).map(|(_, route)| route.to_owned()).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTED: &str = r#""ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
"routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]"#;

    fn cidrs(texts: &[&str]) -> Vec<IpCidr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_documented_template_is_rendered_for_both_families() {
        let dual = render(DOCUMENTED, &cidrs(&["10.1.0.0/16", "fd00:1::/64"])).unwrap();
        let expected = r#""ranges": [[{"subnet": "10.1.0.0/16"}], [{"subnet": "fd00:1::/64"}]],
"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]"#;
        assert_eq!(dual, expected);
        let six = render(DOCUMENTED, &cidrs(&["fd00:1::/64"])).unwrap();
        assert!(six.ends_with(r#""routes": [{"dst": "::/0"}]"#), "{six}");
    }

    #[test]
    fn the_other_forms_mean_what_they_mean_in_go() {
        for (template, expected) in [
            ("a {{ .PodCIDR }} b", "a 10.0.0.0/8 b"),
            ("a {{- .PodCIDR -}} b", "a10.0.0.0/8b"),
            ("{{range .PodCIDRRanges}}{{.}};{{end}}", "10.0.0.0/8;fd00::/8;"),
            ("{{range $r := .Routes}}{{$r}} {{$.PodCIDR}};{{end}}", "0.0.0.0/0 10.0.0.0/8;::/0 10.0.0.0/8;"),
            ("{{range $i, $r := .Routes}}{{$i}}{{end}}", "01"),
        ] {
            let text = render(template, &cidrs(&["10.0.0.0/8", "fd00::/8"]));
            assert_eq!(text.unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn all_else_is_refused_and_named() {
        for (template, named) in [
            ("{{.Hostname}}", ".Hostname"),
            ("{{printf .PodCIDR}}", "printf .PodCIDR"),
            ("{{range .Routes}}{{.PodCIDR}}{{end}}", ".PodCIDR"),
            ("{{range $i, $r := .Routes}}{{$x}}{{end}}", "$x"),
            ("{{if .PodCIDR}}{{end}}", "if .PodCIDR"),
            ("{{range $i, $r := .Routes}}{{if $i}}x{{else}}y{{end}}{{end}}", "else"),
            ("{{end}}", "end"),
            ("{{range .Routes}}", "not closed"),
            ("{{.PodCIDR", "not closed"),
        ] {
            let error = render(template, &cidrs(&["10.0.0.0/8"])).unwrap_err().to_string();
            assert!(error.contains(named), "{template}: {error}");
        }
    }

    #[test]
    fn a_cidr_has_an_address_and_a_prefix_length_that_fits() {
        for text in ["10.0.0.0", "10.0.0.0/33", "fd00::/129", "/8", "x/8", ""] {
            assert!(text.parse::<IpCidr>().is_err(), "{text}");
        }
        assert_eq!("fd00::/64".parse::<IpCidr>().unwrap().to_string(), "fd00::/64");
    }
}
