//! What the lab answers instead of doing: CloudStack's codes and the fragments of its texts that clients may match.

/// An error as CloudStack words it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {text}")]
pub(crate) struct Refusal {
    /// `errorcode`, the HTTP status as well.
    pub(crate) code: u16,
    /// `cserrorcode`; absent for 401 and in the results of jobs.
    pub(crate) detail: Option<u32>,
    /// `errortext`.
    pub(crate) text: String,
    /// Whether the answer's key is `errorresponse` (432 and unknown commands, contract 4).
    pub(crate) bare: bool,
}

impl Refusal {
    fn new(code: u16, detail: Option<u32>, text: impl Into<String>) -> Refusal {
        let text = text.into();
        Refusal {
            code,
            detail,
            text,
            bare: false,
        }
    }

    /// 431: a parameter is wrong, or an object is in the wrong state for it.
    pub(crate) fn parameter(text: impl Into<String>) -> Refusal {
        Refusal::new(431, Some(4350), text)
    }

    /// 431 for a UUID that nothing has (contract 7: any call, `entity does not exist`).
    pub(crate) fn absent(name: &str, id: &str) -> Refusal {
        Refusal::parameter(format!(
            "Unable to execute API command due to invalid value. Invalid parameter {name} value={id} due to incorrect \
             long value format, or entity does not exist or due to incorrect parameter annotation for the field in \
             api cmd class."
        ))
    }

    /// 430: a map parameter cannot be parsed (contract 9).
    pub(crate) fn malformed(text: impl Into<String>) -> Refusal {
        Refusal::new(430, Some(4350), text)
    }

    /// 530: a failure while executing, wrong states thrown as runtime errors included (contract 7).
    pub(crate) fn internal(text: impl Into<String>) -> Refusal {
        Refusal::new(530, Some(4250), text)
    }

    /// 535: a limit of the account.
    pub(crate) fn quota(text: impl Into<String>) -> Refusal {
        Refusal::new(535, Some(4370), text)
    }

    /// 401, which hides its cause (contract 3).
    pub(crate) fn unauthorized() -> Refusal {
        Refusal::new(
            401,
            None,
            "unable to verify user credentials and/or request signature",
        )
    }

    /// 400: a command that changes something came by GET (contract 1, enforcement).
    pub(crate) fn bad_request(text: impl Into<String>) -> Refusal {
        Refusal::new(400, None, text)
    }

    /// 429: rate limit, the wait only inside the text (contract 6).
    pub(crate) fn rate_limited() -> Refusal {
        Refusal::new(
            429,
            Some(4545),
            "The given user has reached his/her account api limit, please retry after 950 ms.",
        )
    }

    /// 503: the management server drains for shutdown (contract 5).
    pub(crate) fn draining() -> Refusal {
        Refusal::new(
            503,
            None,
            "Maintenance or shutdown has been initiated on this management server. Can not accept new jobs",
        )
    }

    /// Unknown command: 401 like all the others (contract 3), under `errorresponse` (contract 4).
    pub(crate) fn unknown_command(name: &str) -> Refusal {
        let text =
            format!("The given command '{name}' either does not exist, is not available for user.");
        Refusal {
            bare: true,
            ..Refusal::new(401, None, text)
        }
    }

    pub(crate) fn with_code(code: u16, text: impl Into<String>) -> Refusal {
        Refusal::new(code, Some(9999), text)
    }
}
