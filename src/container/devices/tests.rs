use std::os::unix::fs::symlink;

use super::*;

fn wanted(host_path: &Path, container_path: &str) -> Device {
    Device {
        host_path: host_path.display().to_string(),
        container_path: container_path.to_owned(),
        permissions: "rw".to_owned(),
    }
}

async fn one(device: Device) -> Result<Vec<HostDevice>, String> {
    resolve(&[device], false, Owner::default()).await.map_err(|error| error.to_string())
}

fn fifo(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
}

#[tokio::test]
async fn a_device_has_the_numbers_of_the_host_and_the_path_of_the_request() {
    let found = one(wanted(Path::new("/dev/null"), "/dev/./my-null")).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].path, Path::new("/dev/my-null"));
    assert_eq!((found[0].kind, found[0].major, found[0].minor), ('c', 1, 3));
    assert_eq!((found[0].mode, found[0].access.as_str()), (0o666, "rw"));
}

#[tokio::test]
async fn a_symlink_stands_for_its_device() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("zero");
    symlink("/dev/zero", &link).unwrap();
    assert_eq!(one(wanted(&link, "/dev/a")).await.unwrap()[0].minor, 5);
    let unnamed = one(wanted(&link, "")).await.unwrap();
    assert_eq!(unnamed[0].path, Path::new("/dev/zero"), "without a container path it is where it leads");
}

#[tokio::test]
async fn permissions_are_some_of_rwm() {
    let with =
        |permissions: &str| Device { permissions: permissions.to_owned(), ..wanted(Path::new("/dev/null"), "/x") };
    assert_eq!(one(with("mwr")).await.unwrap()[0].access, "rwm");
    assert_eq!(one(with("r")).await.unwrap()[0].access, "r");
    assert_eq!(one(with("rx")).await.unwrap_err(), "config.devices[0].permissions: 'x' is none of r, w and m");
    assert_eq!(
        one(with("")).await.unwrap_err(),
        "config.devices[0].permissions: one or more of r, w and m are required"
    );
}

#[tokio::test]
async fn what_is_no_device_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let (missing, file) = (directory.path().join("missing"), directory.path().join("file"));
    std::fs::write(&file, "").unwrap();
    let problem = |path: &Path, text: &str| Err(format!("config.devices[0].host_path: {} {text}", path.display()));
    assert_eq!(one(wanted(&missing, "/x")).await, problem(&missing, "does not exist"));
    assert_eq!(one(wanted(&file, "/x")).await, problem(&file, "is neither a device nor a directory"));
    assert_eq!(
        one(wanted(Path::new("dev/null"), "/x")).await,
        Err("config.devices[0].host_path: is not absolute".to_owned())
    );
    let relative = one(wanted(Path::new("/dev/null"), "x")).await;
    assert_eq!(relative, Err("config.devices[0].container_path: is not absolute".to_owned()));
}

#[tokio::test]
async fn a_fifo_is_a_device_only_when_it_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    fifo(&path);
    assert_eq!(one(wanted(&path, "/x")).await.unwrap()[0].kind, 'p');
    assert_eq!(one(wanted(directory.path(), "/x")).await.unwrap(), []);
}

#[tokio::test]
async fn a_directory_stands_for_the_devices_below_it() {
    let found = one(wanted(Path::new("/dev"), "/host/dev")).await.unwrap();
    let null = found.iter().find(|device| device.path == Path::new("/host/dev/null")).unwrap();
    assert_eq!((null.major, null.minor, null.access.as_str()), (1, 3, "rw"));
    let skipped = ["/host/dev/pts", "/host/dev/shm", "/host/dev/fd", "/host/dev/mqueue", "/host/dev/console"];
    assert!(!found.iter().any(|device| skipped.iter().any(|path| device.path.starts_with(path))));
    assert!(found.iter().all(|device| matches!(device.kind, 'c' | 'b')));
}

#[tokio::test]
async fn devices_of_the_request_come_before_the_hosts() {
    let found = resolve(&[wanted(Path::new("/dev/zero"), "/dev/null")], true, Owner::default()).await.unwrap();
    let nulls: Vec<_> = found.iter().filter(|device| device.path == Path::new("/dev/null")).collect();
    assert_eq!(nulls.len(), 1);
    assert_eq!((nulls[0].minor, nulls[0].access.as_str()), (5, "rw"));
    let zero = found.iter().find(|device| device.path == Path::new("/dev/zero")).unwrap();
    assert_eq!(zero.access, "rwm");
}

#[tokio::test]
async fn nothing_asked_for_is_nothing_found() {
    assert_eq!(resolve(&[], false, Owner::default()).await.unwrap(), []);
}

#[tokio::test]
async fn an_owner_is_of_the_requests_devices_only() {
    let user = |id| Some(Int64Value { value: id });
    let context =
        LinuxContainerSecurityContext { run_as_user: user(1000), run_as_group: user(0), ..Default::default() };
    let owner = Owner::of(Some(&context));
    assert_eq!(owner, Owner { uid: Some(1000), gid: None });
    let found = resolve(&[wanted(Path::new("/dev/null"), "/dev/mine")], true, owner).await.unwrap();
    let uid = |path: &str| found.iter().find(|device| device.path == Path::new(path)).map(|device| device.uid);
    assert_eq!((uid("/dev/mine"), uid("/dev/null")), (Some(1000), Some(0)));
    assert_eq!(Owner::of(None), Owner::default());
}
