//! Conversion of stop signals between CRI's numbers, the names in image configs, and the kernel's numbers.

/// The kernel's number of SIGTERM, the stop signal if neither the container's config nor its image names one.
pub const SIGTERM: u32 = 15;
/// The first real-time signal that libc leaves to programs (signal(7)).
const RTMIN: u32 = 34;
const RTMAX: u32 = 64;
/// CRI's number for SIGRTMIN. From there on, CRI's and the kernel's numbers increase together.
const CRI_RTMIN: i32 = 35;
const CRI_RTMAX: i32 = 65;

/// The kernel's numbers in the order of CRI's enum `Signal`, starting at 1. The order is used and not the names,
/// because CRI v0.37 gave each name the prefix `SIGNAL_`.
const BY_CRI: [(&str, u32); 34] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
];

/// Whether CRI has a signal with this number, including 0 (the runtime's default).
#[must_use]
pub fn is_known(signal: i32) -> bool {
    signal == 0 || from_cri(signal).is_some()
}

/// The kernel's number of a CRI signal. `None` for 0 (the runtime's default) and for numbers that CRI does not have.
#[must_use]
pub fn from_cri(signal: i32) -> Option<u32> {
    if (CRI_RTMIN..=CRI_RTMAX).contains(&signal) {
        return u32::try_from(signal - CRI_RTMIN).ok().map(|offset| RTMIN + offset);
    }
    let index = usize::try_from(signal).ok()?.checked_sub(1)?;
    BY_CRI.get(index).map(|(_, number)| *number)
}

/// CRI's number of a kernel signal; 0 if CRI does not have it.
#[must_use]
pub fn to_cri(number: u32) -> i32 {
    if (RTMIN..=RTMAX).contains(&number) {
        return i32::try_from(number - RTMIN).map_or(0, |offset| CRI_RTMIN + offset);
    }
    // If two names share a number, the first one wins: SIGCHLD, not SIGCLD; SIGABRT, not SIGIOT.
    let index = BY_CRI.iter().position(|(_, known)| *known == number);
    index.and_then(|index| i32::try_from(index + 1).ok()).unwrap_or(0)
}

/// Parses a signal as image configs write it: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`.
#[must_use]
pub fn parse(text: &str) -> Option<u32> {
    if let Ok(number) = text.parse::<u32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |base: u32, offset: &str| offset.parse::<u32>().ok().map(|offset| (base, offset));
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let (base, offset) = if rest.is_empty() { (RTMIN, 0) } else { real_time(RTMIN, rest.strip_prefix('+')?)? };
        return (offset <= RTMAX - RTMIN).then(|| base + offset);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let (base, offset) = if rest.is_empty() { (RTMAX, 0) } else { real_time(RTMAX, rest.strip_prefix('-')?)? };
        return (offset <= RTMAX - RTMIN).then(|| base - offset);
    }
    BY_CRI.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1::Signal;

    #[test]
    fn the_table_follows_the_protos_numbers() {
        for (index, (name, _)) in BY_CRI.iter().enumerate() {
            let signal = Signal::try_from(i32::try_from(index).unwrap() + 1).unwrap();
            assert_eq!(signal.as_str_name(), format!("SIGNAL_SIG{name}"));
        }
        assert_eq!(from_cri(Signal::Sigrtmin.into()), Some(34));
        assert_eq!(from_cri(Signal::Sigrtmaxminus14.into()), Some(50));
        assert_eq!(from_cri(Signal::Sigrtmax.into()), Some(64));
        assert_eq!(from_cri(Signal::RuntimeDefault.into()), None);
        assert_eq!([-1, 0, 1, CRI_RTMAX, CRI_RTMAX + 1].map(is_known), [false, true, true, true, false]);
        let by_number = |number| Signal::try_from(number).is_ok();
        assert!(
            (-1..200).all(|number| is_known(number) == by_number(number)),
            "all of the proto's are known, and no other"
        );
    }

    #[test]
    fn every_number_comes_back() {
        for cri in 1..=CRI_RTMAX {
            let number = from_cri(cri).unwrap();
            assert_eq!(from_cri(to_cri(number)), Some(number));
        }
    }

    #[test]
    fn images_write_signals_in_many_ways() {
        for (text, number) in
            [("SIGTERM", 15), ("quit", 3), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("SIGRTMIN", 34)]
        {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for text in ["", "SIG", "SIGFOO", "0", "65", "-1", "SIGRTMIN+31", "SIGRTMAX-99", "SIGRTMIN3"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
