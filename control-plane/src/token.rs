//! Resume tokens: where a subscriber was in which store.
//!
//! In text a token is 32 hexadecimal digits for the store, a dash and the position in decimal. To
//! subscribers it is opaque. Invariant: `parse` accepts exactly what `Display` writes.

use std::{fmt, str::FromStr};

/// Which store: a random number drawn when the store is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreId(pub u128);

/// The place after one stored state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The store the position counts in.
    pub store: StoreId,
    /// Position of the state that was handled, from 1.
    pub position: u64,
}

/// Text that is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not a resume token; hand back resume_token of a received message unchanged")]
pub struct NotAToken;

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{}", self.store.0, self.position)
    }
}

impl FromStr for Token {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let (store, position) = text.split_once('-').ok_or(NotAToken)?;
        let token = Self {
            store: StoreId(u128::from_str_radix(store, 16).map_err(|_| NotAToken)?),
            position: position.parse().map_err(|_| NotAToken)?,
        };
        // The parsers above take signs, leading zeros and capitals, which Display never writes.
        if token.to_string() == text { Ok(token) } else { Err(NotAToken) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_way_to_a_subscriber_and_back() {
        for (store, position) in [(0, 0), (1, 7), (u128::MAX, u64::MAX)] {
            let token = Token { store: StoreId(store), position };
            assert_eq!(token.to_string().parse(), Ok(token));
        }
    }

    #[test]
    fn what_is_not_a_token_is_refused() {
        let good = Token { store: StoreId(0xabc), position: 12 }.to_string();
        let bad = [
            String::new(),
            "-".into(),
            "12".into(),
            good.to_uppercase(),
            good.replace("-12", "-+12"),
            good.replace("-12", "-012"),
            good.replace("-12", "--12"),
            good.replace("-12", "-18446744073709551616"),
            format!("0{good}"),
            format!("{good} "),
        ];
        for text in bad {
            assert_eq!(text.parse::<Token>(), Err(NotAToken), "{text:?}");
        }
    }
}
