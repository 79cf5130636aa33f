//! The pause program: PID 1 of a sandbox. It holds the namespaces, reaps what is
//! re-parented to it when the pod shares its PID namespace, and ends on SIGTERM or SIGINT.
//!
//! No std and no libc: three system calls, so that its image is one small static file and
//! its resident memory one page.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

const SYS_EXIT: usize = if cfg!(target_arch = "x86_64") { 60 } else { 93 };
const SYS_WAIT4: usize = if cfg!(target_arch = "x86_64") { 61 } else { 260 };
const SYS_RT_SIGPROCMASK: usize = if cfg!(target_arch = "x86_64") { 14 } else { 135 };
const SYS_RT_SIGTIMEDWAIT: usize = if cfg!(target_arch = "x86_64") { 128 } else { 137 };

const SIGINT: usize = 2;
const SIGTERM: usize = 15;
const SIGCHLD: usize = 17;
const SIG_BLOCK: usize = 0;
const WNOHANG: usize = 1;

#[cfg(target_arch = "x86_64")]
unsafe fn syscall4(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: the kernel's x86-64 convention; rcx and r11 are clobbered by `syscall`.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result,
             in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn syscall4(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: the kernel's AArch64 convention.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a as isize => result,
             in("x1") b, in("x2") c, in("x3") d, options(nostack));
    }
    result
}

#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "and rsp, -16", "call {main}", "ud2", main = sym pause);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "bl {main}", "brk 1", main = sym pause);

extern "C" fn pause() -> ! {
    // PID 1 ignores signals without a handler, so they are blocked and taken one by one.
    let signals: u64 = 1 << (SIGINT - 1) | 1 << (SIGTERM - 1) | 1 << (SIGCHLD - 1);
    let set = &raw const signals as usize;
    // SAFETY: `signals` outlives the calls; a null old set, info and timeout are allowed.
    unsafe { syscall4(SYS_RT_SIGPROCMASK, SIG_BLOCK, set, 0, 8) };
    loop {
        // SAFETY: as above.
        let signal = unsafe { syscall4(SYS_RT_SIGTIMEDWAIT, set, 0, 0, 8) };
        if signal == SIGTERM as isize || signal == SIGINT as isize {
            // SAFETY: exit does not return.
            unsafe { syscall4(SYS_EXIT, 0, 0, 0, 0) };
        }
        // One SIGCHLD may stand for many exits: reap until none is left.
        // SAFETY: no status and no usage are asked for.
        while unsafe { syscall4(SYS_WAIT4, usize::MAX, 0, WNOHANG, 0) } > 0 {}
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
