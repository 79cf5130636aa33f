//! Replaces `src/spec/`: only the parsers of an image's config and its users.

#[path = "../../src/spec/image.rs"]
mod image;
#[path = "../../src/spec/user.rs"]
mod user;

pub use image::ImageConfig;

use crate::api::v1::LinuxContainerSecurityContext;
use user::{User, UserDb, user};

#[derive(Debug)]
pub struct Error(String);

impl Error {
    fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self(format!("{}: {}", field.into(), problem.into()))
    }
}

/// Resolves a user with an image's USER, /etc/passwd and /etc/group, which are separated by zero bytes. USER is also
/// used as the request's `run_as_username`.
///
/// # Panics
/// If an id wraps around, if a number is taken for a name, or if a name that does not mean root becomes root.
pub fn users(input: &[u8]) {
    let [name, passwd, group] = crate::pieces(input, 3)[..] else { return };
    let Ok(name) = str::from_utf8(name) else { return };
    let db = UserDb::new(passwd, group);
    if let Ok(found) = user(db, name, None) {
        check(&found);
        let (who, _) = name.split_once(':').unwrap_or((name, ""));
        match who.parse::<u64>() {
            Ok(number) => assert_eq!(u64::from(found.uid), number, "{name:?}"),
            Err(_) => assert!(found.uid != 0 || who.is_empty() || calls_root(who, passwd), "{name:?} is root"),
        }
    }
    for strict in [false, true] {
        let run_as_username = name.to_owned();
        let context = LinuxContainerSecurityContext { run_as_username, strict, ..Default::default() };
        let Ok(found) = user(db, "", Some(&context)) else { continue };
        check(&found);
        assert!(name.is_empty() || name.parse::<u64>().is_err(), "{name:?} is a number");
        assert!(!strict || found.groups == [found.gid]);
    }
}

fn check(user: &User) {
    let most = (1 << 31) - 1;
    assert!(user.uid <= most && user.gid <= most && user.groups.first() == Some(&user.gid));
    let mut groups = user.groups.clone();
    groups.sort_unstable();
    groups.dedup();
    assert_eq!(groups.len(), user.groups.len());
}

/// Whether the name means root. `-0` and `+0` are root's number too.
fn calls_root(who: &str, passwd: &[u8]) -> bool {
    let passwd = String::from_utf8_lossy(passwd);
    let mut entries = passwd.lines().map(|line| line.trim().split(':').collect::<Vec<_>>());
    who.parse::<i64>() == Ok(0)
        || entries.any(|fields| fields.len() > 3 && fields[0] == who && fields[2].parse::<u32>() == Ok(0))
}
