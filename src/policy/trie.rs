//! A token trie, for sampling one of a fixed set of sequences.
//!
//! With a list of admissible actions the policy samples token by token among those that continue
//! one of them. The trie gives that candidate set for every prefix.

use crate::{Error, Result};

/// A set of token sequences, none of which is a prefix of another. Sampling starts at node
/// [`TokenTrie::ROOT`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenTrie {
    /// The children of each node, sorted by token.
    nodes: Vec<Vec<(u32, usize)>>,
}

impl TokenTrie {
    /// The node where every sequence begins.
    pub const ROOT: usize = 0;

    /// Builds the trie of `sequences`; repeated ones count once.
    ///
    /// # Errors
    /// No sequence, an empty one, or one that is a prefix of another; end each with the stop token
    /// to avoid that.
    pub fn new<S: AsRef<[u32]>>(sequences: impl IntoIterator<Item = S>) -> Result<Self> {
        let mut trie = Self { nodes: vec![Vec::new()] };
        let mut ends = Vec::new();
        for sequence in sequences {
            ends.push(trie.insert(sequence.as_ref()));
        }
        let bad =
            |reason| Err(Error::setting("choices", format!("{} sequences", ends.len()), reason));
        if ends.is_empty() || ends.contains(&Self::ROOT) {
            return bad("at least one sequence is required, and none may be empty");
        }
        if ends.iter().any(|&end| !trie.nodes[end].is_empty()) {
            return bad("one is a prefix of another; end each with the stop token");
        }
        Ok(trie)
    }

    /// Adds a sequence and returns the node it ends at.
    fn insert(&mut self, sequence: &[u32]) -> usize {
        let mut node = Self::ROOT;
        for &token in sequence {
            node = match self.nodes[node].binary_search_by_key(&token, |&(token, _)| token) {
                Ok(i) => self.nodes[node][i].1,
                Err(i) => {
                    let new = self.nodes.len();
                    self.nodes[node].insert(i, (token, new));
                    self.nodes.push(Vec::new());
                    new
                }
            };
        }
        node
    }

    /// The tokens that may follow at `node`, in ascending order; none if a sequence ends there.
    pub fn allowed(&self, node: usize) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.nodes[node].iter().map(|&(token, _)| token)
    }

    /// The node reached from `node` by `token`, or `None` if `token` is not allowed there.
    pub fn next(&self, node: usize, token: u32) -> Option<usize> {
        let children = &self.nodes[node];
        children.binary_search_by_key(&token, |&(token, _)| token).ok().map(|i| children[i].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_allows_what_continues_a_sequence() {
        let trie =
            TokenTrie::new([vec![5, 1, 0], vec![5, 1, 2, 0], vec![3, 0], vec![3, 0]]).unwrap();
        let allowed = |node| trie.allowed(node).collect::<Vec<_>>();
        assert_eq!(allowed(TokenTrie::ROOT), [3, 5]);
        let walk =
            |tokens: &[u32]| tokens.iter().try_fold(TokenTrie::ROOT, |node, &t| trie.next(node, t));
        assert_eq!(allowed(walk(&[5, 1]).unwrap()), [0, 2]);
        assert_eq!(allowed(walk(&[3, 0]).unwrap()), [0u32; 0]);
        assert_eq!(walk(&[4]), None);
    }

    #[test]
    fn sequences_that_could_not_end_are_refused() {
        for (sequences, reason) in [
            (vec![], "at least one"),
            (vec![vec![]], "none may be empty"),
            (vec![vec![1, 2], vec![1]], "a prefix of another"),
        ] {
            let error = TokenTrie::new(sequences).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
