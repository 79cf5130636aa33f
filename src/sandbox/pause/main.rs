//! The pause program: PID 1 of a pod sandbox. It holds the namespaces, reaps processes that are reparented to it when
//! the pod shares its PID namespace, and exits on SIGTERM or SIGINT.
//!
//! It uses neither std nor libc, and only four system calls, so that its image is one small static file and its
//! resident memory is one page.
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
    // SAFETY: the kernel's x86-64 syscall convention; `syscall` clobbers rcx and r11, which are declared as outputs.
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
    // SAFETY: the kernel's AArch64 syscall convention.
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
    // The kernel does not deliver signals without a handler to PID 1, so they are blocked and fetched one at a time.
    let signals: u64 = 1 << (SIGINT - 1) | 1 << (SIGTERM - 1) | 1 << (SIGCHLD - 1);
    let set = &raw const signals as usize;
    // SAFETY: `signals` outlives the calls; a null old set, info and timeout are allowed.
    unsafe { syscall4(SYS_RT_SIGPROCMASK, SIG_BLOCK, set, 0, 8) };
    loop {
        // SAFETY: as above.
        let signal = unsafe { syscall4(SYS_RT_SIGTIMEDWAIT, set, 0, 0, 8) };
        if signal == SIGTERM as isize || signal == SIGINT as isize {
            // SAFETY: exit takes no pointers and does not return.
            unsafe { syscall4(SYS_EXIT, 0, 0, 0, 0) };
        }
        // One SIGCHLD may stand for several exits, so reap until no child is left.
        // SAFETY: null is allowed for status and usage, so the kernel writes nothing.
        while unsafe { syscall4(SYS_WAIT4, usize::MAX, 0, WNOHANG, 0) } > 0 {}
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
