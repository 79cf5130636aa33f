//! Replaces `src/api.rs`: only the messages and fields of CRI that the parsers read.

pub mod v1 {
    use std::collections::HashMap;

    #[derive(Default)]
    pub struct ContainerConfig {
        pub cdi_devices: Vec<CdiDevice>,
        pub annotations: HashMap<String, String>,
    }

    pub struct CdiDevice {
        pub name: String,
    }

    #[derive(Clone, Copy, PartialEq, Eq)]
    pub enum SupplementalGroupsPolicy {
        Merge,
        Strict,
    }

    pub struct Int64Value {
        pub value: i64,
    }

    #[derive(Default)]
    pub struct LinuxContainerSecurityContext {
        pub run_as_user: Option<Int64Value>,
        pub run_as_group: Option<Int64Value>,
        pub run_as_username: String,
        pub supplemental_groups: Vec<i64>,
        pub strict: bool,
    }

    impl LinuxContainerSecurityContext {
        pub fn supplemental_groups_policy(&self) -> SupplementalGroupsPolicy {
            if self.strict { SupplementalGroupsPolicy::Strict } else { SupplementalGroupsPolicy::Merge }
        }
    }
}
