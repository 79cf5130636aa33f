//! The names of operations and of their stages: values of metrics' labels, and columns of `pontoon top`.

/// Defines an enum of names that are values of a label and shown in a column of `pontoon top`.
macro_rules! names {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name as it is shown.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

names! {
    /// The kind of an operation: the CRI verb that began it, or follow-up work that a verb needs.
    Verb {
        RunPodSandbox = "RunPodSandbox",
        StopPodSandbox = "StopPodSandbox",
        RemovePodSandbox = "RemovePodSandbox",
        /// A call about a task has failed: the task is queried, ended or deleted until that succeeds.
        SettleTask = "SettleTask",
        /// Removes the leftovers of a creation that failed, or whose result no caller waited for.
        TakeBack = "TakeBack",
        CreateContainer = "CreateContainer",
        StartContainer = "StartContainer",
        StopContainer = "StopContainer",
        RemoveContainer = "RemoveContainer",
        UpdateContainerResources = "UpdateContainerResources",
        UpdatePodSandboxResources = "UpdatePodSandboxResources",
        ExecSync = "ExecSync",
        PullImage = "PullImage",
        /// Unpacks an image that Transfer did not unpack for a snapshotter.
        UnpackImage = "UnpackImage",
        RemoveImage = "RemoveImage",
    }
}

names! {
    /// A part of an operation that can take long or hang.
    Stage {
        /// What the request names is resolved: image, mounts, devices, user.
        Plan = "plan",
        /// A containerd record is written or deleted.
        Record = "record",
        /// The pod's own files and mounts.
        Files = "files",
        /// The network namespace and the user namespace.
        Netns = "netns",
        /// CNI ADD or DEL.
        Cni = "cni",
        /// The snapshot for a container's root file system.
        Snapshot = "snapshot",
        /// Volumes of the image, and images mounted as volumes.
        Volumes = "volumes",
        /// FIFOs and the log file.
        Streams = "streams",
        /// Tasks.Create: the shim starts, and runs `runc create`.
        TaskCreate = "task_create",
        /// Tasks.Get: the reply to a call was lost, so the task's state is queried.
        TaskGet = "task_get",
        /// Tasks.Start.
        TaskStart = "task_start",
        /// Between the stop signal and the end of the grace period.
        Grace = "grace",
        /// After SIGKILL.
        Kill = "kill",
        /// containerd deletes the task.
        TaskDelete = "task_delete",
        /// An object that is to be removed is stopped first.
        Stop = "stop",
        /// The containers of a sandbox.
        Containers = "containers",
        /// The pause task is ended and deleted.
        Pause = "pause",
        /// A failed creation is rolled back.
        Undo = "undo",
        /// A command runs.
        Command = "command",
        /// The operation waits for a slot for a pull or for CNI plugins, or for CNI plugins of the previous daemon to
        /// end.
        Queue = "queue",
        /// containerd's Transfer service resolves, downloads and unpacks.
        Transfer = "transfer",
        /// Pontoon unpacks.
        Unpack = "unpack",
    }
}
