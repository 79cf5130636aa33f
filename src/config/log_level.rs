//! `log.level`: the level of the log, and those of its parts.

use tracing::level_filters::LevelFilter;

use super::{Error, check};

const KEY: &str = "log.level";
const LEVELS: &str = "error, warn, info, debug, trace or off";

/// Returns the directives without spaces.
///
/// `tracing` takes a word that is no level for the name of a part, and shows nothing of the parts that no directive is
/// for. So a misspelt level, or directives without a level for the rest, would silence the log.
pub(super) fn checked(text: &str) -> Result<String, Error> {
    let directives: Vec<&str> = text.split(',').map(str::trim).filter(|directive| !directive.is_empty()).collect();
    for directive in &directives {
        // `[` begins a filter for spans and fields; `tracing` checks those.
        let level = directive.split_once('=').map_or(*directive, |(_, level)| level.trim());
        if !directive.contains('[') && !is_level(level) {
            let problem =
                format!("{level:?} is not a level: {LEVELS}, or PART=LEVEL as in \"info,pontoon::network=debug\"");
            return Err(check::wrong(KEY, problem));
        }
    }
    if !directives.iter().any(|directive| is_level(directive)) {
        let problem = format!("{text:?} has no level for the rest of the log; begin it with {LEVELS}");
        return Err(check::wrong(KEY, problem));
    }
    Ok(directives.join(","))
}

fn is_level(word: &str) -> bool {
    // An empty word would be the level error.
    !word.is_empty() && word.parse::<LevelFilter>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_accepted() {
        for text in
            ["info", "TRACE", "off", "info,pontoon::network=debug", "debug,h2=info,tower=off", "info,[call]=debug"]
        {
            assert_eq!(checked(text).unwrap(), text);
        }
        assert_eq!(checked("info, pontoon::network=debug,").unwrap(), "info,pontoon::network=debug");
    }

    #[test]
    fn what_would_silence_the_log_is_refused() {
        for text in ["verbose", "warning", "", ",", "info,pontoon", "info,pontoon=", "info,pontoon=all"] {
            let error = checked(text).unwrap_err().to_string();
            assert!(error.starts_with("config key log.level: ") && error.contains("error, warn, info"), "{error}");
        }
        let error = checked("pontoon::network=debug").unwrap_err().to_string();
        assert!(error.contains("no level for the rest"), "{error}");
    }
}
