//! What the program's exit code says: the one place where kinds of errors become numbers.

use std::fmt;

use certctl_core::ErrorKind;

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Ok = 0,
    /// A bug, or broken machinery.
    Internal = 1,
    /// The command line, or what it asks for, is wrong.
    Invalid = 2,
    /// No API key, or one that the server does not know.
    Unauthenticated = 3,
    /// The API key's role may not.
    Denied = 4,
    /// No such thing.
    NotFound = 5,
    /// The name is taken, or somebody else was faster.
    Conflict = 6,
    /// The world is not as the command needs it.
    Precondition = 7,
    /// Asked too often.
    RateLimited = 8,
    /// The server can't be reached, or can't work right now.
    Unavailable = 9,
    /// The other side answered with nonsense.
    BadResponse = 10,
    /// The connector can't do that.
    Unsupported = 11,
    /// Somebody cancelled it.
    Cancelled = 12,
    /// What was waited for failed, or needs a person.
    Failed = 20,
    /// The time to wait is over; the jobs go on.
    TimedOut = 21,
}

impl Exit {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::Ok,
        Self::Internal,
        Self::Invalid,
        Self::Unauthenticated,
        Self::Denied,
        Self::NotFound,
        Self::Conflict,
        Self::Precondition,
        Self::RateLimited,
        Self::Unavailable,
        Self::BadResponse,
        Self::Unsupported,
        Self::Cancelled,
        Self::Failed,
        Self::TimedOut,
    ];

    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What it means, for the help.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "all went well",
            Self::Internal => "a bug, or broken machinery",
            Self::Invalid => "the command line, or what it asks for, is wrong",
            Self::Unauthenticated => "no API key, or one that the server does not know",
            Self::Denied => "the API key's role may not do this",
            Self::NotFound => "no such thing",
            Self::Conflict => "the name is taken, or somebody else was faster",
            Self::Precondition => "something else has to be done first",
            Self::RateLimited => "asked too often",
            Self::Unavailable => "the server can't be reached, or can't work now",
            Self::BadResponse => "the other side answered with nonsense",
            Self::Unsupported => "the connector can't do this",
            Self::Cancelled => "somebody cancelled it",
            Self::Failed => "what was waited for failed, or needs a person",
            Self::TimedOut => "the time to wait is over; the jobs go on",
        }
    }

    /// The list of all, for the help.
    pub fn table() -> String {
        let lines = Self::ALL.map(|exit| format!("  {:>2}  {}", exit.code(), exit.meaning()));
        format!("Exit codes:\n{}", lines.join("\n"))
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Invalid => Self::Invalid,
            ErrorKind::Unauthenticated => Self::Unauthenticated,
            ErrorKind::Denied => Self::Denied,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Conflict => Self::Conflict,
            ErrorKind::Precondition => Self::Precondition,
            ErrorKind::RateLimited => Self::RateLimited,
            ErrorKind::Unavailable => Self::Unavailable,
            ErrorKind::BadResponse => Self::BadResponse,
            ErrorKind::Unsupported => Self::Unsupported,
            ErrorKind::Cancelled => Self::Cancelled,
            // Kinds to come are bugs here until somebody gives them a number.
            _ => Self::Internal,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code(), self.meaning())
    }
}
