//! Transposes an 8 × 8 block.

/// Transposes element by element.
#[inline(always)]
pub(crate) fn by_elements<T: Copy>(rows: [[T; 8]; 8]) -> [[T; 8]; 8] {
    std::array::from_fn(|i| std::array::from_fn(|j| rows[j][i]))
}

/// Transposes by exchanging single elements, pairs and halves between registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
#[inline]
pub(crate) fn by_registers(rows: [[f32; 8]; 8]) -> [[f32; 8]; 8] {
    use std::arch::x86_64::*;
    let mut out = [[0.0; 8]; 8];
    // SAFETY: every row has the eight elements of a register.
    #[allow(unsafe_code)]
    let [a, b, c, d, e, f, g, h] =
        rows.each_ref().map(|row| unsafe { _mm256_loadu_ps(row.as_ptr()) });
    let upper = transposed_quarters([a, b, c, d]);
    let lower = transposed_quarters([e, f, g, h]);
    for i in 0..4 {
        let columns = [
            _mm256_permute2f128_ps::<0x20>(upper[i], lower[i]),
            _mm256_permute2f128_ps::<0x31>(upper[i], lower[i]),
        ];
        for (out, column) in out[i..].iter_mut().step_by(4).zip(columns) {
            // SAFETY: as above.
            #[allow(unsafe_code)]
            unsafe {
                _mm256_storeu_ps(out.as_mut_ptr(), column);
            }
        }
    }
    out
}

/// Transposes the two 4 × 4 blocks of four rows: columns 0 and 4, 1 and 5, 2 and 6, 3 and 7.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
#[inline]
fn transposed_quarters(
    [a, b, c, d]: [std::arch::x86_64::__m256; 4],
) -> [std::arch::x86_64::__m256; 4] {
    use std::arch::x86_64::*;
    const LOW: i32 = 0b01_00_01_00;
    const HIGH: i32 = 0b11_10_11_10;
    // Interleaves two rows: elements 0, 1, 4, 5, or 2, 3, 6, 7.
    let ab = _mm256_unpacklo_ps(a, b);
    let cd = _mm256_unpacklo_ps(c, d);
    let ab2 = _mm256_unpackhi_ps(a, b);
    let cd2 = _mm256_unpackhi_ps(c, d);
    [
        _mm256_shuffle_ps::<LOW>(ab, cd),
        _mm256_shuffle_ps::<HIGH>(ab, cd),
        _mm256_shuffle_ps::<LOW>(ab2, cd2),
        _mm256_shuffle_ps::<HIGH>(ab2, cd2),
    ]
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        if !std::arch::is_x86_feature_detected!("avx") {
            return;
        }
        let rows: [[f32; 8]; 8] =
            std::array::from_fn(|i| std::array::from_fn(|j| (8 * i + j) as f32));
        // SAFETY: the machine has AVX.
        #[allow(unsafe_code)]
        let columns = unsafe { by_registers(rows) };
        assert_eq!(columns, by_elements(rows));
        assert_eq!((columns[0][7], columns[7][0], columns[3][4]), (56.0, 7.0, 35.0));
    }
}
