//! Enums whose values have names: in Python, in files, and in messages.

/// Implements `name`, `Display` and `FromStr` for an enum; an unknown name is an error of a parameter, or
/// of a file's entry, of the name that is given first.
macro_rules! named {
    ($type:ident, $parameter:literal, { $($value:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// All values.
            pub(crate) const ALL: &[Self] = &[$(Self::$value),+];

            /// The name by which it is asked for, and in files.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $name),+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::error::Error;

            /// # Errors
            /// [`Error::Parameter`](crate::Error::Parameter) for another name.
            fn from_str(name: &str) -> $crate::error::Result<Self> {
                let found = Self::ALL.iter().copied().find(|value| value.name() == name);
                found.ok_or_else(|| {
                    let names = Self::ALL.iter().copied().map(Self::name);
                    $crate::names::unknown($parameter, names, name)
                })
            }
        }
    };
}

pub(crate) use named;

/// The error for a name that nothing has: `dtype: expected "float32", "float16" or "int8", got "f8"`.
pub(crate) fn unknown(
    parameter: &'static str,
    names: impl Iterator<Item = &'static str>,
    got: &str,
) -> crate::error::Error {
    let quoted: Vec<String> = names.map(|name| format!("{name:?}")).collect();
    let expected = match &quoted[..] {
        [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        names => names.concat(),
    };
    let message = format!("{parameter}: expected {expected}, got {got:?}");
    crate::error::Error::parameter(parameter, message)
}

#[cfg(test)]
mod tests {
    use crate::pyramid::{DType, Upsample};

    #[test]
    fn names_lead_back_to_what_has_them_and_others_are_refused_with_all_that_there_are() {
        for dtype in DType::ALL {
            assert_eq!(dtype.to_string().parse::<DType>().unwrap(), *dtype);
        }
        assert_eq!(
            "float64".parse::<DType>().unwrap_err().to_string(),
            "dtype: expected \"float32\", \"float16\" or \"int8\", got \"float64\""
        );
        assert_eq!(
            "Block".parse::<Upsample>().unwrap_err().to_string(),
            "upsample: expected \"bilinear\" or \"block\", got \"Block\""
        );
    }
}
