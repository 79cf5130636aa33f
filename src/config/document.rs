//! Parses the file, and says what is wrong with it: in one line, with the number of the line, the full name of the key,
//! and what the key takes.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{File, keys};

/// The most characters of a value that an error shows.
const SHOWN: usize = 60;

/// What is wrong, and in which line, counted from 1.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) line: usize,
    pub(super) problem: String,
}

/// A key of the file, and where its value is.
struct Place {
    key: Vec<String>,
    value: Range<usize>,
    is_table: bool,
    /// The part of the value that is wrong, if it is not the whole value.
    part: Option<Range<usize>>,
}

/// # Errors
/// [`Wrong`] if the text is not TOML, has an unknown key, or has a value of another type than its key takes.
pub(super) fn parse(text: &str) -> Result<File, Wrong> {
    let document = DeTable::parse(text).map_err(|error| Wrong {
        line: line(text, &error),
        problem: format!("this is not TOML: {}", in_one_line(error.message())),
    })?;
    if let Some(place) = not_a_table(document.get_ref(), &[]) {
        return Err(Wrong { line: line_at(text, place.value.start), problem: problem(text, &place) });
    }
    toml::from_str(text).map_err(|error| {
        let place = error.span().and_then(|span| find(document.get_ref(), &span, &[]));
        // Each error has the place of a key or a value. If one should not, the parser's words are better than none.
        let problem = place.map_or_else(|| in_one_line(error.message()), |place| problem(text, &place));
        Wrong { line: line(text, &error), problem }
    })
}

fn problem(text: &str, place: &Place) -> String {
    let key = place.key.join(".");
    match keys::takes(&place.key) {
        Some(takes) => {
            let verb = if place.part.is_some() { "has" } else { "is" };
            format!("{key} {verb} {}, and has to be {takes}", shown(text, place))
        }
        None => format!("there is no key {key}; {}", keys::instead(&place.key)),
    }
}

/// The value, or the wrong part of it, as the file has it, cut to one short line.
fn shown(text: &str, place: &Place) -> String {
    if place.is_table {
        return "a table".to_owned();
    }
    let value = text.get(place.part.clone().unwrap_or(place.value.clone())).unwrap_or_default();
    let start: String = value.lines().next().unwrap_or_default().chars().take(SHOWN).collect();
    if start.len() < value.len() { format!("{start} ...") } else { start }
}

/// The key at which the parser has found an error: the error has the place of the key itself, or of its value, or of a
/// part of the value.
fn find(table: &DeTable<'_>, error: &Range<usize>, parents: &[String]) -> Option<Place> {
    // Keys come before values: a table's place is that of its header, which the names of the keys are a part of.
    if let Some((key, value)) = table.iter().find(|(key, _)| key.span() == *error) {
        return Some(place(parents, key.get_ref(), value));
    }
    table.iter().find_map(|(key, value)| {
        let here = place(parents, key.get_ref(), value);
        let below = match value.get_ref() {
            DeValue::Table(table) => find(table, error, &here.key),
            _ => None,
        };
        let covers = here.value.start <= error.start && error.end <= here.value.end;
        let part = (here.value != *error).then(|| error.clone());
        below.or_else(|| covers.then_some(Place { part, ..here }))
    })
}

/// The first table that is written as something else. serde would accept a list, and take its values for those of the
/// table's keys, in their order.
fn not_a_table(table: &DeTable<'_>, parents: &[String]) -> Option<Place> {
    table.iter().find_map(|(key, value)| {
        let here = place(parents, key.get_ref(), value);
        match value.get_ref() {
            DeValue::Table(table) => not_a_table(table, &here.key),
            _ => keys::is_table(&here.key).then_some(here),
        }
    })
}

fn place(parents: &[String], key: &str, value: &Spanned<DeValue<'_>>) -> Place {
    let key = parents.iter().cloned().chain([key.to_owned()]).collect();
    Place { key, value: value.span(), is_table: matches!(value.get_ref(), DeValue::Table(_)), part: None }
}

fn line(text: &str, error: &toml::de::Error) -> usize {
    line_at(text, error.span().map_or(0, |span| span.start))
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

fn in_one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        let wrong = parse(text).unwrap_err();
        assert!(!wrong.problem.contains('\n'), "{}", wrong.problem);
        format!("{}: {}", wrong.line, wrong.problem)
    }

    #[test]
    fn a_value_of_another_type_is_described_in_words() {
        for (text, told) in [
            ("[streaming]\nport = 70000\n", "2: streaming.port is 70000, and has to be a whole number from 0 to 65535"),
            ("[streaming]\nport = \"x\"\n", "2: streaming.port is \"x\", and has to be a whole number from 0 to 65535"),
            ("[streaming]\nport = 1.5", "2: streaming.port is 1.5, and has to be a whole number from 0 to 65535"),
            ("limits.execs = -1", "1: limits.execs is -1, and has to be a whole number from 1 to 1048576"),
            ("\n\n[cdi]\nannotations = \"yes\"", "4: cdi.annotations is \"yes\", and has to be true or false"),
            ("log = { format = \"xml\" }", "1: log.format is \"xml\", and has to be \"text\" or \"json\""),
            ("[cni]\nip_pref = 4", "2: cni.ip_pref is 4, and has to be \"ipv4\", \"ipv6\" or \"cni\""),
            ("[cni]\nip_pref = \"v4\"", "2: cni.ip_pref is \"v4\", and has to be \"ipv4\", \"ipv6\" or \"cni\""),
            ("socket = 1", "1: socket is 1, and has to be an absolute path in quotation marks"),
            ("[socket]\na = 1", "1: socket is a table, and has to be an absolute path in quotation marks"),
            (
                "[streaming]\naddress = \"localhost\"",
                "2: streaming.address is \"localhost\", and has to be an IP address in quotation marks",
            ),
            (
                "[images]\npinned_images = [\n  \"a\",\n  1,\n]",
                "4: images.pinned_images has 1, and has to be a list of texts, such as [\"a\", \"b\"]",
            ),
            (
                "[runtimes.runc]\npod_annotations = \"a\"",
                "2: runtimes.runc.pod_annotations is \"a\", and has to be a list of texts, such as [\"a\", \"b\"]",
            ),
        ] {
            assert_eq!(wrong(text), told);
        }
    }

    #[test]
    fn the_error_for_an_unknown_key_lists_those_that_exist() {
        for (text, told) in [
            ("[log]\ncolour = true", "2: there is no key log.colour; [log] has level, format"),
            ("[log]\n\nsocket = \"/a\"", "3: there is no key log.socket; did you mean socket?"),
            ("namespace = \"a\"", "1: there is no key namespace; did you mean containerd.namespace?"),
            ("[lgo.a]\nlevel = 1", "1: there is no key lgo; there are socket, admin_socket, root, state, netns_dir,"),
            ("[runtimes.a]\nkind = 1", "2: there is no key runtimes.a.kind; [runtimes.a] has type, options,"),
        ] {
            assert!(wrong(text).starts_with(told), "{}", wrong(text));
        }
    }

    #[test]
    fn a_table_is_not_a_list() {
        for (text, told) in [
            ("log = \"info\"", "1: log is \"info\", and has to be a table, under a line [log]"),
            ("log = [\"info\", \"json\"]", "1: log is [\"info\", \"json\"], and has to be a table, under a line [log]"),
            ("a = 1\n[[cni]]", "2: cni is [[cni]], and has to be a table, under a line [cni]"),
            ("runtimes = 1", "1: runtimes is 1, and has to be a table, under a line [runtimes.NAME]"),
            ("[runtimes]\na = []", "2: runtimes.a is [], and has to be a table, under a line [runtimes.a]"),
        ] {
            assert_eq!(wrong(text), told);
        }
    }

    #[test]
    fn what_is_not_toml_names_its_line() {
        for text in ["[log]\nlevel = info\n", "root = \"/a\"\nroot = \"/b\"\n"] {
            assert!(wrong(text).starts_with("2: this is not TOML: "), "{}", wrong(text));
        }
        assert!(wrong("[log]\nlevel = \"info\n").contains(": this is not TOML: "));
    }
}
