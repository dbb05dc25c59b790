//! Bits of blocks from words of a mask, and back, where blocks do not begin where words do.
//!
//! With 10 elements before the output's first cache line, block 1 has the upper 22 bits of word 0 and the lower 10 of
//! word 1: it is `word 1 << 22 | word 0 >> 10`. The way back is the same with other numbers: word 1 has the upper 10 bits
//! of block 1 and the lower 22 of block 2, `block 2 << 10 | block 1 >> 22`.

/// Shifts a sequence of words as if it were one long number.
#[derive(Clone, Copy)]
pub(super) struct WordShift {
    /// Bits that each word moves up: 0 to 31.
    by: u32,
    /// The word before.
    before: u32,
}

impl WordShift {
    pub(super) fn new(by: usize, before: u32) -> Self {
        debug_assert!(by < 32);
        Self { by: by as u32, before }
    }

    /// From words of the mask to bits of blocks, where so many elements come before the first whole block.
    pub(super) fn to_blocks(lead: usize) -> Self {
        Self::new((32 - lead) % 32, 0)
    }

    /// From bits of blocks to words of the mask, where `lead` elements come before the first whole block; `head` has
    /// their bits at its upper end.
    pub(super) fn to_words(lead: usize, head: u32) -> Self {
        Self::new(lead, head)
    }

    #[inline(always)]
    pub(super) fn next(&mut self, word: u32) -> u32 {
        // In two steps, so that nothing is left of the word before if `by` is 0.
        let shifted = word << self.by | self.before >> 1 >> (31 - self.by);
        self.before = word;
        shifted
    }

    /// The same for many words at a time.
    #[inline(always)]
    pub(super) fn all(&mut self, words: &mut [u32]) {
        // A copy can stay in registers, without which this does not become vector code.
        let mut shift = *self;
        for word in words {
            *word = shift.next(*word);
        }
        *self = shift;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: [u32; 40] = {
        let mut words = [0; 40];
        let mut i = 0;
        while i < words.len() {
            words[i] = (i as u32 + 1).wrapping_mul(0x9E37_79B9);
            i += 1;
        }
        words
    };

    fn bit(words: &[u32], i: usize) -> bool {
        words[i / 32] >> (i % 32) & 1 == 1
    }

    #[test]
    fn the_example_above() {
        let mut shift = WordShift::to_blocks(10);
        shift.next(WORDS[0]);
        assert_eq!(shift.next(WORDS[1]), WORDS[1] << 22 | WORDS[0] >> 10);
        let mut shift = WordShift::to_words(10, WORDS[1]);
        assert_eq!(shift.next(WORDS[2]), WORDS[2] << 10 | WORDS[1] >> 22);
    }

    /// Element by element, and back again, in one go and in two.
    #[test]
    fn blocks_have_the_bits_of_their_elements() {
        for lead in 0..32 {
            let mut blocks = WORDS;
            let mut shift = WordShift::to_blocks(lead);
            shift.all(&mut blocks[..17]);
            shift.all(&mut blocks[17..]);
            let end = if lead == 0 { 32 } else { lead };
            for i in 0..32 * WORDS.len() {
                // Block 0 ends after `end` elements; those before element 0 are clear.
                let expected = (i + end).checked_sub(32).is_some_and(|element| bit(&WORDS, element));
                assert_eq!(bit(&blocks, i), expected, "lead {lead}, bit {i}");
            }

            let mut words = blocks;
            let (head, rest) = words.split_first_mut().unwrap();
            let mut shift = WordShift::to_words(lead, *head);
            let (first, second) = rest.split_at_mut(20);
            shift.all(first);
            shift.all(second);
            let expected = if lead == 0 { &WORDS[1..] } else { &WORDS[..39] };
            let known = 32 * expected.len() - if lead == 0 { 0 } else { 32 - lead };
            (0..known).for_each(|i| assert_eq!(bit(rest, i), bit(expected, i), "lead {lead}, back, bit {i}"));
        }
    }
}
