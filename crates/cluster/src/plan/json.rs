//! A plan as a file.

use super::Plan;

/// The only format so far.
pub const FORMAT: u8 = 1;
/// Largest file that is read as a plan, in bytes.
pub const MAX_PLAN_BYTES: usize = 16 << 20;

/// Why a file is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanFileError {
    /// It is too large.
    #[error("it is larger than any plan")]
    TooLarge,
    /// It is not what this version writes.
    #[error("it is no plan of this version")]
    Json(#[from] serde_json::Error),
    /// It was written by another version.
    #[error("it is a plan of format {0}, which this version does not know")]
    Format(u8),
}

impl Plan {
    /// The plan as the text of a file.
    ///
    /// # Errors
    /// None is known: there is nothing in a plan that JSON cannot hold.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// The plan of a file.
    ///
    /// # Errors
    /// [`PlanFileError`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, PlanFileError> {
        if bytes.len() > MAX_PLAN_BYTES {
            return Err(PlanFileError::TooLarge);
        }
        // The version first: another one may have other fields.
        #[derive(serde::Deserialize)]
        struct Versioned {
            v: u8,
        }
        match serde_json::from_slice::<Versioned>(bytes)?.v {
            FORMAT => Ok(serde_json::from_slice(bytes)?),
            other => Err(PlanFileError::Format(other)),
        }
    }
}
