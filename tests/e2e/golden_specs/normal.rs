//! Normalizes a spec: without what differs from run to run, and without an order where the order has no meaning.

use std::path::Path;

use serde_json::{Map, Value};

/// Texts of one run, and their replacements.
pub struct Known {
    bed: String,
    texts: Vec<(String, String)>,
}

impl Known {
    /// The replacements for the paths and the id of a pod.
    pub fn new(bed: &Path, pod: &str) -> Self {
        let bed = bed.display().to_string();
        let mut known = Self { bed: bed.clone(), texts: Vec::new() };
        for prefix in ["run", "containerd/state/io.containerd.grpc.v1.cri", "containerd/root/io.containerd.grpc.v1.cri"]
        {
            known.text(&format!("{bed}/{prefix}/sandboxes/{pod}"), "POD_FILES");
        }
        known.text(&format!("{bed}/netns/pontoon-{pod}"), "NETNS");
        known.text(pod, "POD");
        known
    }

    /// Adds a replacement. Longer texts are replaced first.
    pub fn text(&mut self, text: &str, stands: &str) {
        self.texts.push((text.to_owned(), stands.to_owned()));
        self.texts.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
    }

    /// Adds a replacement for the pid of a process of the pod.
    pub fn pid(&mut self, pid: u64, stands: &str) {
        self.text(&format!("/proc/{pid}/"), &format!("/proc/{stands}/"));
    }

    /// Adds replacements for the container's id and the directory of its volumes.
    pub fn container(&mut self, id: &str) {
        self.text(id, "CONTAINER");
        for prefix in ["root", "containerd/root/io.containerd.grpc.v1.cri"] {
            self.text(&format!("{}/{prefix}/containers/{id}/volumes", self.bed), "VOLUMES");
        }
    }

    /// The normalized spec.
    pub fn normal(&self, spec: &Value) -> Value {
        let mut spec = spec.clone();
        self.replace(&mut spec);
        for (pointer, key) in [
            ("/mounts", "destination"),
            ("/linux/namespaces", "type"),
            ("/linux/devices", "path"),
            ("/process/rlimits", "type"),
        ] {
            if let Some(list) = spec.pointer_mut(pointer) {
                by_key(list, key);
            }
        }
        if let Some(list) = spec.pointer_mut("/process/env") {
            environment(list);
        }
        for set in ["bounding", "permitted", "effective", "inheritable", "ambient"] {
            if let Some(list) = spec.pointer_mut(&format!("/process/capabilities/{set}")) {
                sort(list);
            }
        }
        for pointer in [
            "/linux/maskedPaths",
            "/linux/readonlyPaths",
            "/linux/seccomp/architectures",
            "/process/user/additionalGids",
        ] {
            if let Some(list) = spec.pointer_mut(pointer) {
                sort(list);
            }
        }
        if let Some(list) = spec.pointer_mut("/linux/seccomp/syscalls") {
            system_calls(list);
        }
        for mount in spec["mounts"].as_object_mut().into_iter().flat_map(Map::values_mut) {
            sort(&mut mount["options"]);
        }
        without_empty(&mut spec);
        spec
    }

    fn replace(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                for (known, stands) in &self.texts {
                    *text = text.replace(known, stands);
                }
                *text = processes(text);
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.replace(item)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.replace(field)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// Replaces the pids of pause processes, random names, and the names of beds.
fn processes(text: &str) -> String {
    let mut parts: Vec<String> = text.split('/').map(str::to_owned).collect();
    for at in 0..parts.len() {
        let before = at.checked_sub(1).map(|before| parts[before].clone()).unwrap_or_default();
        let part = &parts[at];
        if before == "proc" && !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            parts[at] = "PAUSE".to_owned();
        } else if part.starts_with("cni-") && before == "netns" {
            return "NETNS".to_owned();
        } else if part.starts_with("ptbed") && part[5..].bytes().all(|byte| byte.is_ascii_digit()) {
            parts[at] = "PARENT".to_owned();
        } else if part.starts_with("pt-") && before == "tmp" {
            parts[at] = "BED".to_owned();
        } else if before == "VOLUMES" || before == "hash" || before == "pause" && part.len() >= 16 {
            parts[at] = "NAME".to_owned();
        }
    }
    parts.join("/")
}

fn sort(list: &mut Value) {
    if let Some(items) = list.as_array_mut() {
        items.sort_by_key(ToString::to_string);
        items.dedup();
    }
}

fn by_key(list: &mut Value, key: &str) {
    let mut map = Map::new();
    for item in list.as_array_mut().into_iter().flatten() {
        let name = item[key].as_str().unwrap_or_default().to_owned();
        if let Some(fields) = item.as_object_mut() {
            fields.remove(key);
        }
        map.insert(name, item.clone());
    }
    *list = Value::Object(map);
}

fn environment(list: &mut Value) {
    let mut map = Map::new();
    for entry in list.as_array().into_iter().flatten().filter_map(Value::as_str) {
        let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
        map.insert(key.to_owned(), value.into());
    }
    *list = Value::Object(map);
}

/// Makes one entry for each system call with its conditions, regardless of how the rules group them.
fn system_calls(list: &mut Value) {
    let mut map = Map::new();
    for rule in list.as_array_mut().into_iter().flatten() {
        for argument in rule["args"].as_array_mut().into_iter().flatten() {
            if let Some(fields) = argument.as_object_mut() {
                fields.retain(|key, value| key != "valueTwo" || value.as_u64() != Some(0));
            }
        }
        let conditions = rule["args"].as_array().map(|args| Value::Array(args.clone()).to_string()).unwrap_or_default();
        for name in rule["names"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let action = rule["action"].as_str().unwrap_or_default();
            let error = rule["errnoRet"].as_u64().map(|number| format!(" {number}")).unwrap_or_default();
            map.insert(format!("{name}{conditions}"), format!("{action}{error}").into());
        }
    }
    *list = Value::Object(map);
}

/// Removes null, false, and empty lists and objects: they mean the same as an absent field, and Go omits false.
fn without_empty(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(without_empty);
            fields.retain(|_, field| !is_empty(field));
        }
        Value::Array(items) => items.iter_mut().for_each(without_empty),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => false,
    }
}
