//! The result of a session as a v1.Status in JSON, which the error stream of v4.channel.k8s.io (and v5) carries.
//!
//! client-go's `errorDecoderV4` reads it. For the reason `NonZeroExitCode`, the exit code is the message of the cause
//! of type `ExitCode`. Any other failure is in the message of the status.

use serde_json::json;

use super::Failure;

/// The command exited with 0, or the streams of the attached container ended.
#[must_use]
pub fn success() -> Vec<u8> {
    json!({ "metadata": {}, "status": "Success" }).to_string().into_bytes()
}

/// The command exited with `code`. For 0 this is [`success`].
#[must_use]
pub fn exit_code(code: i32) -> Vec<u8> {
    if code == 0 {
        return success();
    }
    let status = json!({
        "metadata": {},
        "status": "Failure",
        "message": exit_sentence(code),
        "reason": "NonZeroExitCode",
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    });
    status.to_string().into_bytes()
}

/// The session failed.
#[must_use]
pub fn failure(failure: &Failure) -> Vec<u8> {
    let status = json!({
        "metadata": {},
        "status": "Failure",
        "message": failure_sentence(failure),
        "reason": "InternalError",
        "code": 500,
    });
    status.to_string().into_bytes()
}

/// What protocols before v4 send for an exit code other than 0.
#[must_use]
pub fn exit_sentence(code: i32) -> String {
    format!("command terminated with non-zero exit code: {code}")
}

/// What protocols before v4 send for a failure.
#[must_use]
pub fn failure_sentence(failure: &Failure) -> String {
    format!("Internal error occurred: {failure}")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn read(status: &[u8]) -> Value {
        serde_json::from_slice(status).unwrap()
    }

    #[test]
    fn success_has_no_reason() {
        assert_eq!(read(&success()), json!({ "metadata": {}, "status": "Success" }));
        assert_eq!(exit_code(0), success());
    }

    #[test]
    fn an_exit_code_is_where_client_go_looks_for_it() {
        let status = read(&exit_code(7));
        assert_eq!(status["status"], "Failure");
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0], json!({ "reason": "ExitCode", "message": "7" }));
    }

    #[test]
    fn a_failure_is_an_internal_error_with_its_sentence() {
        let status = read(&failure(&Failure("no \"task\"".to_owned())));
        assert_eq!(status["reason"], "InternalError");
        assert_eq!(status["message"], "Internal error occurred: no \"task\"");
        assert_eq!(status["code"], 500);
    }
}
