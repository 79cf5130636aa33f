use super::*;

#[test]
#[ignore = "needs root"]
fn a_root_is_a_root() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("real")).unwrap();
    std::fs::write(dir.path().join("real/file"), "in the image").unwrap();
    std::os::unix::fs::symlink("/../../real", dir.path().join("lnk")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", dir.path().join("out")).unwrap();
    let source = dir.path().display().to_string();
    let root = MountedRoot::mount(MountSpec { fs_type: "bind".to_owned(), source, options: Vec::new() }).unwrap();
    for path in ["/real/file", "/lnk/file", "/../../lnk/file", "../real/../real/file"] {
        let text = io::read_to_string(root.open_file(Path::new(path)).unwrap()).unwrap();
        assert_eq!(text, "in the image", "{path}");
    }
    root.open_directory(Path::new("/lnk")).unwrap();
    assert_eq!(root.open_file(Path::new("/out")).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(root.open_file(Path::new("/lnk")).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let here = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!here.contains(&dir.path().display().to_string()), "no mount on the host");
}

#[test]
#[ignore = "needs root"]
fn a_sub_directory_is_attached_read_only_and_detached() {
    let (dir, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::create_dir_all(dir.path().join("v1/deep")).unwrap();
    std::fs::write(dir.path().join("v1/deep/file"), "in the image").unwrap();
    for (link, to) in [("latest", "v1"), ("out", ".."), ("root", "/"), ("proc", "/proc/self/root")] {
        std::os::unix::fs::symlink(to, dir.path().join(link)).unwrap();
    }
    let spec =
        || MountSpec { fs_type: "bind".to_owned(), source: dir.path().display().to_string(), options: Vec::new() };
    let attach = |sub: &str| attach(spec(), Path::new(sub), target.path());
    for (sub, file) in [("latest/deep", "file"), ("", "v1/deep/file")] {
        attach(sub).unwrap();
        assert_eq!(std::fs::read_to_string(target.path().join(file)).unwrap(), "in the image");
        let refused = std::fs::write(target.path().join("new"), "x").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        detach(target.path()).unwrap();
        assert!(!target.path().join(file).exists());
    }
    detach(target.path()).unwrap();
    let refused = |sub: &str| match attach(sub) {
        Err(AttachError::SubPath(error)) => error,
        other => panic!("{sub}: {other:?}"),
    };
    for sub in ["out", "root/etc", "proc", "latest/../../x"] {
        assert_eq!(refused(sub).raw_os_error(), Some(Errno::XDEV.raw_os_error()), "{sub}");
    }
    assert_eq!(refused("latest/deep/file").kind(), io::ErrorKind::NotADirectory);
    assert_eq!(refused("none").kind(), io::ErrorKind::NotFound);
    assert!(std::fs::read_dir(target.path()).unwrap().next().is_none(), "nothing was attached");
}

/// The owners of the root of a mount, and of `file` in it.
fn owners(root: &Path) -> Vec<(u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    let owner = |path: PathBuf| std::fs::symlink_metadata(path).map(|file| (file.uid(), file.gid())).unwrap();
    vec![owner(root.to_owned()), owner(root.join("file"))]
}

#[test]
#[ignore = "needs root"]
fn owners_are_those_of_the_mapping_in_one_layer_and_in_two() {
    // Not on a tmpfs, which supports id-mapped mounts only since Linux 6.3.
    let (dir, target) = (tempfile::tempdir_in("/var/tmp").unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (dir.path().join("1/fs"), dir.path().join("2/fs"));
    for layer in [&one, &two] {
        std::fs::create_dir_all(layer).unwrap();
    }
    std::fs::write(two.join("file"), "").unwrap();
    std::os::unix::fs::chown(two.join("file"), Some(33), Some(44)).unwrap();
    let ids = ["uidmap=0:70000:65536", "gidmap=0:80000:65536"].map(ToOwned::to_owned).to_vec();
    let bind = MountSpec { fs_type: "bind".to_owned(), source: two.display().to_string(), options: ids.clone() };
    let lower = format!("lowerdir={}:{}", one.display(), two.display());
    let options = ids.into_iter().chain([lower]).collect();
    let overlay = MountSpec { fs_type: "overlay".to_owned(), source: "overlay".to_owned(), options };
    for spec in [bind, overlay] {
        let kind = spec.fs_type.clone();
        attach(spec, Path::new(""), target.path()).unwrap();
        let found = owners(target.path());
        detach(target.path()).unwrap();
        assert_eq!(found, [(70_000, 80_000), (70_033, 80_044)], "{kind}");
    }
    assert_eq!(owners(&two), [(0, 0), (33, 44)], "nothing changed on disk");
}

#[test]
#[ignore = "needs root"]
fn a_directory_that_is_mounted_with_a_label_shows_what_it_has() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::write(dir.path().join("file"), "in the image").unwrap();
    std::os::unix::fs::chown(dir.path(), Some(33), Some(44)).unwrap();
    let spec = MountSpec { fs_type: "bind".to_owned(), source: dir.path().display().to_string(), options: Vec::new() };
    let seen = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>).unwrap();
        // The label itself needs a kernel with SELinux; cgroup2.sh boots one.
        mount_labelled(&spec, Options { data: Vec::new(), ids: None }, MsFlags::MS_RDONLY).unwrap();
        let names = std::fs::read_dir(TARGET).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        (names, owners(Path::new(TARGET)), std::fs::write(Path::new(TARGET).join("new"), "x").unwrap_err().kind())
    });
    let (names, owners, written) = seen.join().unwrap();
    assert_eq!(names, ["file"]);
    assert_eq!(owners, [(33, 44), (0, 0)]);
    assert_eq!(written, io::ErrorKind::ReadOnlyFilesystem);
}
