use super::*;
use crate::api::v1::{CdiDevice, ContainerConfig};

const ONE: &str = r#"{"cdiVersion": "0.6.0", "kind": "vendor.com/gpu", "containerEdits": {"env": ["ALL=1"]},
    "devices": [{"name": "0", "containerEdits": {"env": ["GPU=0"], "deviceNodes": [{"path": "/dev/zero"}]}},
                {"name": "all", "annotations": {"a": "b"}, "containerEdits": {"env": ["GPU=all"]}}]}"#;

/// In the form in which NVIDIA's tool writes its specs.
const TWO: &str = "
---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
  - name: \"0\"
    containerEdits:
      deviceNodes:
        - path: /dev/nvidia0
          hostPath: /dev/null
          fileMode: 0660
          permissions: rw
          gid: 44
containerEdits:
  hooks:
    - hookName: createContainer
      path: /usr/bin/nvidia-cdi-hook
      args: [nvidia-cdi-hook, update-ldcache, --folder, /usr/lib]
      env:
        - NVIDIA_CTK_DEBUG=false
  mounts:
    - hostPath: /usr/lib/libcuda.so.1
      containerPath: /usr/lib/libcuda.so.1
      options: [ro, nosuid, nodev, rbind, rprivate]
";

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

fn asks(names: &[&str]) -> Vec<Request> {
    let devices = names.iter().map(|name| CdiDevice { name: (*name).to_owned() }).collect();
    requests(&ContainerConfig { cdi_devices: devices, ..ContainerConfig::default() }, true).unwrap()
}

async fn found(directories: &[&tempfile::TempDir], names: &[&str]) -> Result<ContainerEdits, String> {
    let paths: Vec<PathBuf> = directories.iter().map(|directory| directory.path().to_owned()).collect();
    resolve(&paths, asks(names)).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn what_a_spec_says_of_all_its_devices_counts_once() {
    let directory = directory(&[("one.json", ONE), ("readme.txt", "no spec")]);
    let edits = found(&[&directory], &["vendor.com/gpu=0", "vendor.com/gpu=all"]).await.unwrap();
    assert_eq!(edits.env, ["ALL=1", "GPU=0", "GPU=all"]);
    assert_eq!(
        (edits.device_nodes[0].kind.as_str(), edits.device_nodes[0].major, edits.device_nodes[0].minor),
        ("c", 1, 5)
    );
}

#[tokio::test]
async fn yaml_is_read_as_vendors_write_it() {
    let directory = directory(&[("nvidia.yaml", TWO)]);
    let edits = found(&[&directory], &["nvidia.com/gpu=0"]).await.unwrap();
    let node = &edits.device_nodes[0];
    assert_eq!((node.file_mode, node.gid, node.permissions.as_str()), (Some(0o660), Some(44), "rw"));
    assert_eq!((node.kind.as_str(), node.major, node.minor), ("c", 1, 3));
    assert_eq!((edits.hooks[0].hook_name, edits.hooks[0].args.len()), (HookPoint::CreateContainer, 4));
    assert_eq!(edits.mounts[0].options.len(), 5);
}

#[tokio::test]
async fn a_change_is_seen_by_the_next_request() {
    let directory = directory(&[("one.json", ONE)]);
    assert!(found(&[&directory], &["vendor.com/gpu=1"]).await.is_err());
    std::fs::write(directory.path().join("one.json"), ONE.replace("\"0\"", "\"1\"")).unwrap();
    assert!(found(&[&directory], &["vendor.com/gpu=1"]).await.is_ok());
    std::fs::remove_file(directory.path().join("one.json")).unwrap();
    assert!(found(&[&directory], &["vendor.com/gpu=1"]).await.is_err());
}

#[tokio::test]
async fn a_later_directory_wins_and_two_files_of_one_are_a_conflict() {
    let (low, high) = (directory(&[("one.json", ONE)]), directory(&[("a.json", &ONE.replace("GPU=0", "GPU=high"))]));
    let edits = found(&[&low, &high], &["vendor.com/gpu=0"]).await.unwrap();
    assert_eq!(edits.env, ["ALL=1", "GPU=high"]);
    std::fs::write(low.path().join("two.json"), ONE).unwrap();
    assert!(found(&[&low, &high], &["vendor.com/gpu=0"]).await.is_ok());
    let error = found(&[&low], &["vendor.com/gpu=0"]).await.unwrap_err();
    assert!(error.contains("one.json and in ") && error.contains("two.json"), "{error}");
}

#[tokio::test]
async fn an_unknown_device_is_named_with_what_could_not_be_read() {
    let bad = [
        ("field.json", ONE.replace("\"env\"", "\"enviroment\"")),
        ("kind.json", ONE.replace("vendor.com/gpu", "vendor.com")),
        ("version.json", ONE.replace("0.6.0", "2.0.0")),
        ("hook.yaml", TWO.replace("createContainer", "whenever")),
        ("mode.json", ONE.replace("{\"path\": \"/dev/zero\"}", "{\"path\": \"/dev/zero\", \"permissions\": \"x\"}")),
    ];
    let files: Vec<(&str, &str)> = bad.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let directory = directory(&files);
    let error = found(&[&directory], &["vendor.com/gpu=0"]).await.unwrap_err();
    assert!(error.starts_with("config.CDI_devices[0].name: there is no CDI device vendor.com/gpu=0 in "), "{error}");
    for (name, _) in bad {
        assert!(error.contains(name), "{name} was read: {error}");
    }
    let none = resolve(&[], asks(&["vendor.com/gpu=0"])).await.unwrap_err().to_string();
    assert!(none.ends_with("in cdi.spec_dirs, which is empty"), "{none}");
}

#[tokio::test]
async fn a_device_that_the_host_lacks_or_has_otherwise_is_an_error() {
    let missing = directory(&[("one.json", &ONE.replace("/dev/zero", "/dev/not-there"))]);
    let error = found(&[&missing], &["vendor.com/gpu=0"]).await.unwrap_err();
    assert_eq!(error, "stat /dev/not-there, which a CDI spec names");
    let block = ONE.replace("{\"path\": \"/dev/zero\"}", "{\"path\": \"/dev/zero\", \"type\": \"b\"}");
    assert!(found(&[&directory(&[("one.json", &block)])], &["vendor.com/gpu=0"]).await.is_err());
}

#[test]
fn names_come_from_the_field_and_the_containers_annotations() {
    let annotations = [("cdi.k8s.io/b", "v.com/nic=x"), ("cdi.k8s.io/a", "v.com/gpu=0,v.com/gpu=1:2"), ("other", "x")];
    let config = ContainerConfig {
        cdi_devices: vec![CdiDevice { name: "v.com/gpu=0".to_owned() }],
        annotations: annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..ContainerConfig::default()
    };
    let names: Vec<String> = requests(&config, true).unwrap().into_iter().map(|request| request.name).collect();
    assert_eq!(names, ["v.com/gpu=0", "v.com/gpu=1:2", "v.com/nic=x"]);
    let off = requests(&config, false).unwrap_err().to_string();
    assert_eq!(off, "config.annotations[cdi.k8s.io/a]: cdi.annotations is off");
}

#[test]
fn what_is_no_qualified_name_is_refused() {
    for name in [
        "",
        "gpu",
        "v.com/gpu",
        "v.com=0",
        "/gpu=0",
        "v.com/=0",
        "v.com/gpu=",
        "1.com/gpu=0",
        "v.com/gpu=-",
        "v.com/gpu=a b",
        "v.com/../x=0",
        "v/a/b=0",
    ] {
        let config =
            ContainerConfig { cdi_devices: vec![CdiDevice { name: name.to_owned() }], ..ContainerConfig::default() };
        let error = requests(&config, true).unwrap_err().to_string();
        assert!(error.starts_with("config.CDI_devices[0].name: "), "{name}: {error}");
    }
}
