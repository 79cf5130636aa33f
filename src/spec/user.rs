//! The user of a container: that of the request, or else that of the image, looked up in the image's own /etc/passwd
//! and /etc/group.

use std::borrow::Cow;

use super::Error;
use crate::api::v1::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};

const CONTEXT: &str = "config.linux.security_context";
/// The largest id that Kubernetes and the kernel do not take for "none": a larger one once wrapped to 0
/// (CVE-2024-40635).
const MAX_ID: i64 = (1 << 31) - 1;
/// Most lines of a file that are read, since the image's author wrote it.
const LINES: usize = 100_000;

/// A resolved user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All groups including the primary one: a file may deny access to a group (CVE-2023-25173).
    pub groups: Vec<u32>,
}

/// passwd(5) and group(5) of an image, unparsed. No parsed entries are kept, since an author can write ten million
/// fields.
#[derive(Clone, Copy, Debug, Default)]
pub struct UserDb<'a> {
    passwd: &'a [u8],
    group: &'a [u8],
}

/// An entry of passwd.
#[derive(Clone, Debug)]
struct Passwd {
    name: String,
    uid: u32,
    gid: u32,
}

impl<'a> UserDb<'a> {
    /// Malformed lines are skipped when they are read.
    #[must_use]
    pub fn new(passwd: &'a [u8], group: &'a [u8]) -> Self {
        Self { passwd, group }
    }

    fn by_name(&self, name: &str) -> Option<Passwd> {
        self.user(|other, _| other == name)
    }

    fn by_uid(&self, uid: u32) -> Option<Passwd> {
        self.user(|_, other| other == uid)
    }

    /// The first user whose name and uid `wanted` accepts.
    fn user(&self, wanted: impl Fn(&str, u32) -> bool) -> Option<Passwd> {
        lines(self.passwd).find_map(|line| {
            let mut fields = line.split(':');
            let (name, _, uid) = (fields.next()?, fields.next()?, fields.next()?.parse().ok()?);
            let gid = fields.next()?.parse().ok()?;
            wanted(name, uid).then(|| Passwd { name: name.to_owned(), uid, gid })
        })
    }

    /// The id of the first group with this name.
    fn group(&self, name: &str) -> Option<u32> {
        lines(self.group).find_map(|line| group(&line).filter(|(other, _, _)| *other == name).map(|(_, gid, _)| gid))
    }

    /// The groups that have `member` as a member.
    fn groups_with(&self, member: &str) -> Vec<u32> {
        let is_member = |line: Cow<'_, str>| {
            let (_, gid, members) = group(&line)?;
            members.split(',').any(|other| other == member).then_some(gid)
        };
        lines(self.group).filter_map(is_member).collect()
    }
}

/// Name, id and members in a line of group.
fn group(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?.parse().ok()?);
    Some((name, gid, fields.next().unwrap_or_default()))
}

fn lines(file: &[u8]) -> impl Iterator<Item = Cow<'_, str>> {
    file.split(|byte| *byte == b'\n').take(LINES).map(|line| String::from_utf8_lossy(line.trim_ascii()))
}

/// Resolves the user of a request, or else of the image (`user[:group]`).
///
/// # Errors
/// [`Error`] names the field, or the image's USER.
pub fn user(db: UserDb<'_>, image_user: &str, context: Option<&LinuxContainerSecurityContext>) -> Result<User, Error> {
    let (base, name) = match requested(db, context)? {
        Some(found) => found,
        None => from_image(db, image_user)?,
    };
    // The group may come from an image's file, so its range is checked here.
    id("the image's primary group", base.1.into())?;
    let mut groups = vec![base.1];
    let strict =
        context.is_some_and(|context| context.supplemental_groups_policy() == SupplementalGroupsPolicy::Strict);
    if let Some(name) = name.filter(|_| !strict) {
        groups.extend(db.groups_with(&name));
    }
    for group in context.into_iter().flat_map(|context| &context.supplemental_groups) {
        groups.push(id(&format!("{CONTEXT}.supplemental_groups"), *group)?);
    }
    let mut seen = std::collections::HashSet::new();
    groups.retain(|group| seen.insert(*group));
    Ok(User { uid: base.0, gid: base.1, groups })
}

/// User and group id, and the name whose group memberships count.
type Found = ((u32, u32), Option<String>);

fn requested(db: UserDb<'_>, context: Option<&LinuxContainerSecurityContext>) -> Result<Option<Found>, Error> {
    let Some(context) = context else { return Ok(None) };
    let group =
        context.run_as_group.as_ref().map(|group| id(&format!("{CONTEXT}.run_as_group"), group.value)).transpose()?;
    let (uid, known) = match (&context.run_as_user, context.run_as_username.as_str()) {
        (Some(_), name) if !name.is_empty() => {
            return Err(Error::invalid(format!("{CONTEXT}.run_as_username"), "and run_as_user exclude each other"));
        }
        (Some(user), _) => {
            let uid = id(&format!("{CONTEXT}.run_as_user"), user.value)?;
            (uid, db.by_uid(uid))
        }
        (None, "") if group.is_some() => {
            return Err(Error::invalid(format!("{CONTEXT}.run_as_group"), "needs run_as_user or run_as_username"));
        }
        (None, "") => return Ok(None),
        (None, name) => {
            let known = lookup(db, name, &format!("{CONTEXT}.run_as_username"))?;
            (known.uid, Some(known))
        }
    };
    let gid = group.or(known.as_ref().map(|known| known.gid)).unwrap_or(0);
    Ok(Some(((uid, gid), known.map(|known| known.name))))
}

fn from_image(db: UserDb<'_>, text: &str) -> Result<Found, Error> {
    const FIELD: &str = "the image's USER";
    if text.is_empty() {
        // Root, with the groups that the image's files give it.
        return Ok(((0, 0), db.by_uid(0).map(|root| root.name)));
    }
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let (uid, known) = match number(user, FIELD)? {
        Some(uid) => (uid, db.by_uid(uid)),
        None => {
            let known = lookup(db, user, FIELD)?;
            (known.uid, Some(known))
        }
    };
    let gid = match group {
        None => known.as_ref().map_or(0, |known| known.gid),
        Some(group) => match number(group, FIELD)? {
            Some(gid) => gid,
            None => db
                .group(group)
                .ok_or_else(|| Error::invalid(FIELD, format!("there is no group {group:?} in the image")))?,
        },
    };
    Ok(((uid, gid), known.map(|known| known.name)))
}

fn lookup(db: UserDb<'_>, name: &str, field: &str) -> Result<Passwd, Error> {
    // A text of digits is a number, never a name: otherwise an image could name its root user 99999999999
    // (CVE-2026-46680).
    let found = db.by_name(name).filter(|_| !is_number(name));
    let found = found.ok_or_else(|| Error::invalid(field, format!("there is no user {name:?} in the image")))?;
    id(field, found.uid.into())?;
    id(field, found.gid.into())?;
    Ok(found)
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// A number within the range; `None` if the text is a name.
fn number(text: &str, field: &str) -> Result<Option<u32>, Error> {
    if !is_number(text) {
        return Ok(None);
    }
    let value = text.parse().map_err(|_| Error::invalid(field, format!("{text} is not an id")))?;
    id(field, value).map(Some)
}

/// Converts a number of the request to an id.
pub(super) fn id(field: &str, value: i64) -> Result<u32, Error> {
    let fits = (0..=MAX_ID).contains(&value).then(|| u32::try_from(value).ok()).flatten();
    fits.ok_or_else(|| Error::invalid(field, format!("{value} is not between 0 and {MAX_ID}")))
}

impl User {
    pub(super) fn to_oci(&self) -> oci_spec::runtime::User {
        let mut user = oci_spec::runtime::User::default();
        user.set_uid(self.uid).set_gid(self.gid).set_additional_gids(Some(self.groups.clone()));
        user
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1::Int64Value;

    const PASSWD: &[u8] =
        b"root:x:0:0::/:/bin/sh\nbroken\nweb:x:33:33::/:/\n99999999999:x:0:0::/:/bin/sh\nbig:x:4294967295:0::/:/\n";
    const GROUP: &[u8] = b"root:x:0:\nweb:x:33:\ndisk:x:6:web,root\nextra:x:20:web\n";

    fn db() -> UserDb<'static> {
        UserDb::new(PASSWD, GROUP)
    }

    fn context(uid: Option<i64>, gid: Option<i64>, name: &str) -> LinuxContainerSecurityContext {
        LinuxContainerSecurityContext {
            run_as_user: uid.map(|value| Int64Value { value }),
            run_as_group: gid.map(|value| Int64Value { value }),
            run_as_username: name.to_owned(),
            ..LinuxContainerSecurityContext::default()
        }
    }

    fn resolve(image: &str) -> Result<User, Error> {
        user(db(), image, None)
    }

    #[test]
    fn an_images_user_may_be_a_name_or_a_number_with_or_without_a_group() {
        for (text, uid, gid, groups) in [
            ("", 0, 0, vec![0, 6]),
            ("web", 33, 33, vec![33, 6, 20]),
            ("33", 33, 33, vec![33, 6, 20]),
            ("web:extra", 33, 20, vec![20, 6]),
            ("1002", 1002, 0, vec![0]),
            ("1003:1004", 1003, 1004, vec![1004]),
        ] {
            assert_eq!(resolve(text).unwrap(), User { uid, gid, groups }, "{text}");
        }
    }

    #[test]
    fn digits_are_a_number_and_never_a_name() {
        for text in ["99999999999", "4294967296:0", "2147483648", "-1", "1:99999999999"] {
            assert!(resolve(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_id_of_the_images_files_out_of_range_is_refused() {
        assert!(resolve("big").is_err());
        let db = UserDb::new(b"wide:x:5:4294967295::/:\n", b"wide:x:4294967295:\n");
        for text in ["5", "wide", "6:wide"] {
            assert!(user(db, text, None).is_err(), "{text}");
        }
        assert!(user(db, "", Some(&context(Some(5), None, ""))).is_err());
    }

    #[test]
    fn the_request_wins_over_the_image() {
        let found = user(db(), "web", Some(&context(Some(1000), Some(2000), ""))).unwrap();
        assert_eq!(found, User { uid: 1000, gid: 2000, groups: vec![2000] });
        let found = user(db(), "", Some(&context(None, None, "web"))).unwrap();
        assert_eq!(found, User { uid: 33, gid: 33, groups: vec![33, 6, 20] });
    }

    #[test]
    fn what_makes_no_sense_names_its_field() {
        for (context, field) in [
            (context(None, Some(1), ""), "run_as_group"),
            (context(Some(1), None, "web"), "run_as_username"),
            (context(None, None, "nobody-there"), "run_as_username"),
            (context(Some(2_147_483_648), None, ""), "run_as_user"),
        ] {
            let error = user(db(), "", Some(&context)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{CONTEXT}.{field}:")), "{error}");
        }
    }

    #[test]
    fn strict_leaves_the_images_groups_out() {
        let mut context = context(Some(33), None, "");
        context.supplemental_groups = vec![1234, 33];
        assert_eq!(user(db(), "", Some(&context)).unwrap().groups, [33, 6, 20, 1234]);
        context.set_supplemental_groups_policy(SupplementalGroupsPolicy::Strict);
        assert_eq!(user(db(), "", Some(&context)).unwrap().groups, [33, 1234]);
    }
}
