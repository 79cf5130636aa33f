//! The keys are written down in four places: in the types that the file is read into, in [`KEYS`], in README.md and in
//! examples/config.toml. Each key has to be in all of them.

use std::collections::BTreeSet;

use serde::de::value::Error;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};

use super::*;
use crate::config::file::Runtime;
use crate::config::{
    AppArmor, Cdi, Cni, ContainerdSection, File, Images, Limits, Log, MetricsSection, Selinux, Streaming, Traces,
};
use crate::containerd::{OTHER_OPTIONS, RUNC_OPTIONS};

const README: &str = include_str!("../../../README.md");
const EXAMPLE: &str = include_str!("../../../examples/config.toml");

/// Collects the names of a struct's fields, as serde knows them, and reads nothing.
struct FieldNames<'a>(&'a mut Vec<&'static str>);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("this is not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.0.extend(fields);
        Err(Error::custom("only the names were wanted"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn fields<T: for<'de> Deserialize<'de>>() -> Vec<&'static str> {
    let mut names = Vec::new();
    assert!(T::deserialize(FieldNames(&mut names)).is_err() && !names.is_empty());
    names
}

/// The keys that are accepted. A field of [`File`] that is not named here as a table counts as a key.
fn accepted() -> BTreeSet<String> {
    let tables = [
        ("log", fields::<Log>()),
        ("metrics", fields::<MetricsSection>()),
        ("traces", fields::<Traces>()),
        ("containerd", fields::<ContainerdSection>()),
        ("cni", fields::<Cni>()),
        ("images", fields::<Images>()),
        ("limits", fields::<Limits>()),
        ("cdi", fields::<Cdi>()),
        ("apparmor", fields::<AppArmor>()),
        ("selinux", fields::<Selinux>()),
        ("streaming", fields::<Streaming>()),
        ("runtimes", fields::<Runtime>()),
    ];
    let mut keys: BTreeSet<String> = fields::<File>().into_iter().map(str::to_owned).collect();
    for (table, fields) in tables {
        assert!(keys.remove(table), "the file has no table {table}");
        let table = if table == "runtimes" { format!("runtimes.{NAME}") } else { table.to_owned() };
        keys.extend(fields.into_iter().map(|field| format!("{table}.{field}")));
    }
    keys
}

/// The texts between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The cells of the rows of the reference, that is, of each table below the heading that does not list flags.
fn reference(readme: &str) -> Vec<Vec<&str>> {
    let section = readme.split_once("\n## Configuration\n").expect("README.md has no such section").1;
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let rows = section.lines().filter(|line| line.starts_with("| `") && !line.starts_with("| `--"));
    rows.map(|row| row.trim_matches('|').split('|').collect()).collect()
}

fn keys_of_readme(readme: &str) -> BTreeSet<String> {
    reference(readme).into_iter().flat_map(|row| quoted(row[0])).map(str::to_owned).collect()
}

/// The keys of the example. Those without a default are commented out.
fn keys_of_example(example: &str) -> BTreeSet<String> {
    let mut table = String::new();
    let mut keys = BTreeSet::new();
    for line in example.lines() {
        if let Some(header) = line.strip_prefix('[') {
            table = header.trim_end_matches(']').replace("runtimes.runc", &format!("runtimes.{NAME}"));
            continue;
        }
        let Some((key, _)) = line.strip_prefix("# ").unwrap_or(line).split_once(" = ") else { continue };
        if key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            let is_option = table.ends_with(".options");
            keys.insert(match table.as_str() {
                "" => key.to_owned(),
                _ if is_option => table.clone(),
                _ => format!("{table}.{key}"),
            });
        }
    }
    keys
}

fn assert_same(what: &str, documented: &BTreeSet<String>) {
    let accepted = accepted();
    let missing: Vec<_> = accepted.difference(documented).collect();
    let unknown: Vec<_> = documented.difference(&accepted).collect();
    assert!(missing.is_empty(), "{what} lacks these keys: {missing:?}");
    assert!(unknown.is_empty(), "{what} has keys that do not exist: {unknown:?}");
}

#[test]
fn the_list_has_each_key_and_no_other() {
    assert_same("KEYS", &KEYS.iter().map(|(key, _)| (*key).to_owned()).collect());
    assert!(accepted().len() > 50, "the types were not read: {:?}", accepted());
}

#[test]
fn the_reference_in_readme_has_each_key_and_no_other() {
    assert_same("README.md", &keys_of_readme(README));
    for row in reference(README) {
        assert!(row.len() == 3 && row.iter().all(|cell| !cell.trim().is_empty()), "{row:?}");
    }
}

#[test]
fn the_example_has_each_key_and_no_other() {
    assert_same("examples/config.toml", &keys_of_example(EXAMPLE));
}

#[test]
fn the_reference_in_readme_has_each_option_of_a_runtime_and_no_other() {
    let reference = reference(README);
    let row = reference.iter().find(|row| row[0].contains("runtimes.NAME.options")).expect("there is such a row");
    let documented = quoted(row[2]).filter(|word| word.starts_with(|c: char| c.is_ascii_uppercase()));
    let options = RUNC_OPTIONS.into_iter().chain(OTHER_OPTIONS);
    assert_eq!(documented.collect::<BTreeSet<_>>(), options.collect::<BTreeSet<_>>());
}

#[test]
fn documents_are_read_with_lists_of_keys_flags_and_comments() {
    let readme = "# A\n| `none` | 1 | a |\n\n## Configuration\n| flag | a |\n| `--a FILE` | `none` |\n\n| `a` † | x | `none` |\n\
                  | `b.c`, `b.d` | `none` | x |\n\n## Next\n| `none` | 1 | a |\n";
    assert_eq!(keys_of_readme(readme).into_iter().collect::<Vec<_>>(), ["a", "b.c", "b.d"]);
    let example = "# A text with a = 1 in it.\na = 1\n# b = 2\n[c]\nd = 3\n[runtimes.runc]\n# e = 4\n[runtimes.runc.options]\nF = 5\n";
    let keys = ["a", "b", "c.d", "runtimes.NAME.e", "runtimes.NAME.options"];
    assert_eq!(keys_of_example(example).into_iter().collect::<Vec<_>>(), keys);
}

#[test]
fn what_a_key_takes_is_found_below_the_name_of_a_handler() {
    let place = |name: &str| name.split('.').map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(takes(&place("runtimes.kata.virtual_machine")).as_deref(), Some(SWITCH));
    assert_eq!(takes(&place("runtimes.kata")).as_deref(), Some("a table, under a line [runtimes.kata]"));
    assert_eq!(takes(&place("log.levels")), None);
    assert!(is_table(&place("runtimes")) && is_table(&place("log")) && !is_table(&place("log.level")));
    assert_eq!(instead(&place("cni.snapshotter")), "did you mean images.snapshotter or runtimes.NAME.snapshotter?");
    assert_eq!(instead(&place("cdi.dirs")), "[cdi] has spec_dirs, annotations");
}
