use super::*;

/// What the kernel would return for a call: an errno, or 0 when the call is allowed.
fn verdict(profile: &LinuxSeccomp, name: &str, arguments: &[u64]) -> u32 {
    const EPERM: u32 = 1;
    let matches = |argument: &LinuxSeccompArg| {
        let given = arguments.get(argument.index()).copied().unwrap_or(0);
        match argument.op() {
            Operator::ScmpCmpLt => given < argument.value(),
            Operator::ScmpCmpEq => given == argument.value(),
            Operator::ScmpCmpMaskedEq => given & argument.value() == argument.value_two().unwrap_or(0),
            other => panic!("{other:?} is not used"),
        }
    };
    let rules = profile.syscalls().as_ref().unwrap();
    let found = rules.iter().find(|rule| {
        rule.names().iter().any(|of_rule| of_rule == name)
            && rule.args().as_ref().is_none_or(|arguments| arguments.iter().all(matches))
    });
    match found.map(|rule| (rule.action(), rule.errno_ret())) {
        Some((Action::ScmpActAllow, _)) => 0,
        Some((Action::ScmpActErrno, errno)) => errno.unwrap_or(EPERM),
        None if profile.default_action() == Action::ScmpActErrno => EPERM,
        other => panic!("{name}: {other:?}"),
    }
}

fn profile(capabilities: &[&str]) -> LinuxSeccomp {
    let capabilities: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
    profile_for("x86_64", &capabilities, (6, 1))
}

fn allowed(capabilities: &[&str], name: &str) -> bool {
    verdict(&profile(capabilities), name, &[]) == 0
}

#[test]
fn sockets_of_the_kernel_crypto_and_of_virtual_machines_are_refused() {
    let profile = profile(&["CAP_SYS_ADMIN"]);
    let refused: Vec<u64> = (1..64).filter(|domain| verdict(&profile, "socket", &[*domain]) != 0).collect();
    let unknown: Vec<u64> = (46..64).collect();
    assert_eq!(refused[..2], [38, 40]);
    assert_eq!(refused[2..], unknown);
    // The kernel uses only the lower half of the register; the filter compares all of it.
    assert_eq!(verdict(&profile, "socket", &[(1 << 32) | 38]), 1);
    assert_eq!(verdict(&profile, "socketpair", &[40]), 0);
}

#[test]
fn mounts_and_namespaces_need_sys_admin() {
    for name in ["mount", "umount2", "setns", "unshare", "bpf", "fsopen", "move_mount"] {
        assert!(!allowed(&["CAP_SYS_CHROOT", "CAP_NET_ADMIN"], name), "{name}");
        assert!(allowed(&["CAP_SYS_ADMIN"], name), "{name}");
    }
}

#[test]
fn clone_makes_threads_and_processes_but_no_namespaces() {
    let (plain, admin) = (profile(&[]), profile(&["CAP_SYS_ADMIN"]));
    let (thread, user_namespace, net_namespace) = (0x003d_0f00, 0x1000_0000 | 17, 0x4000_0000);
    assert_eq!(
        [17, thread, user_namespace, net_namespace].map(|flags| verdict(&plain, "clone", &[flags])),
        [0, 0, 1, 1]
    );
    assert_eq!(verdict(&admin, "clone", &[user_namespace]), 0);
}

#[test]
fn flags_of_clone_are_its_second_argument_on_s390() {
    let profile = profile_for("s390x", &[], (6, 1));
    assert_eq!(verdict(&profile, "clone", &[0x1000_0000, 17]), 0);
    assert_eq!(verdict(&profile, "clone", &[17, 0x1000_0000]), 1);
}

#[test]
fn clone3_is_as_if_the_kernel_had_none() {
    assert_eq!(verdict(&profile(&[]), "clone3", &[]), 38);
    assert_eq!(verdict(&profile(&["CAP_SYS_ADMIN"]), "clone3", &[]), 0);
}

#[test]
fn personality_keeps_address_randomization() {
    let profile = profile(&[]);
    let no_randomization = 0x0004_0000;
    assert_eq!([0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff].map(|value| verdict(&profile, "personality", &[value])), [0; 5]);
    assert_eq!(verdict(&profile, "personality", &[no_randomization]), 1);
}

#[test]
fn a_capability_adds_only_its_own_calls() {
    let pairs = [
        ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
        ("CAP_SYS_BOOT", "reboot"),
        ("CAP_SYS_CHROOT", "chroot"),
        ("CAP_SYS_MODULE", "finit_module"),
        ("CAP_SYS_PACCT", "acct"),
        ("CAP_SYS_PTRACE", "kcmp"),
        ("CAP_SYS_RAWIO", "iopl"),
        ("CAP_SYS_TIME", "clock_settime"),
        ("CAP_SYS_TTY_CONFIG", "vhangup"),
        ("CAP_SYS_NICE", "mbind"),
        ("CAP_SYSLOG", "syslog"),
        ("CAP_BPF", "bpf"),
        ("CAP_PERFMON", "perf_event_open"),
    ];
    for (capability, _) in pairs {
        let added: Vec<&str> =
            pairs.iter().filter(|(_, name)| allowed(&[capability], name)).map(|(of, _)| *of).collect();
        assert_eq!(added, [capability]);
    }
}

#[test]
fn tracing_is_free_since_linux_4_8() {
    let before = profile_for("x86_64", &[], (4, 7));
    assert_eq!((verdict(&before, "ptrace", &[]), verdict(&profile(&[]), "ptrace", &[])), (1, 0));
    assert_eq!(verdict(&profile_for("x86_64", &[], (5, 0)), "process_vm_readv", &[]), 0);
}

#[test]
fn key_rings_uring_and_new_system_calls_are_refused() {
    for name in
        ["keyctl", "add_key", "request_key", "io_uring_setup", "userfaultfd", "kexec_load", "swapon", "pivot_root"]
    {
        assert!(!allowed(&["CAP_SYS_CHROOT"], name), "{name}");
    }
    for name in ["read", "openat2", "futex", "statx", "memfd_secret", "landlock_restrict_self", "fchmodat2"] {
        assert!(allowed(&[], name), "{name}");
    }
}

#[test]
fn architectures_have_their_own_calls_and_their_32_bit_kin() {
    let calls = |arch| {
        let profile = profile_for(arch, &[], (6, 1));
        ["arch_prctl", "set_tls", "swapcontext", "riscv_hwprobe", "s390_runtime_instr"]
            .map(|name| verdict(&profile, name, &[]) == 0)
    };
    assert_eq!(calls("x86_64"), [true, false, false, false, false]);
    assert_eq!(calls("aarch64"), [false, true, false, false, false]);
    assert_eq!(calls("s390x"), [false, false, false, false, true]);
    assert!(profile_for("x86_64", &[], (6, 1)).architectures().as_ref().unwrap().contains(&Arch::ScmpArchX86));
    assert!(profile_for("powerpc64", &[], (6, 1)).architectures().is_none());
}

#[test]
fn a_profile_survives_json() {
    let made = profile(&["CAP_SYS_ADMIN"]);
    assert_eq!(from_json(&serde_json::to_vec(&made).unwrap()).unwrap(), made);
}

#[test]
fn a_localhost_profile_is_read_as_the_runtime_spec_has_it() {
    let read = from_json(
        br#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"comment":"passed over",
            "syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO","errnoRet":13,
                "args":[{"index":1,"value":511,"op":"SCMP_CMP_EQ"}]}]}"#,
    )
    .unwrap();
    let chmod = &read.syscalls().as_ref().unwrap()[0];
    assert_eq!((chmod.action(), chmod.errno_ret()), (Action::ScmpActErrno, Some(13)));
    assert!(from_json(b"{}").is_err(), "a profile without a default action allows nobody knows what");
    assert!(from_json(br#"{"defaultAction":"SCMP_ACT_SOMETHING"}"#).is_err());
}
