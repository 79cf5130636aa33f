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
