#!/bin/sh
# A Gaussian sampler with a bound, whose values are beyond it by the width of the whole modulus.
# Guess: Lattigo's ring.DiscreteGaussian{Sigma, Bound} over a modulus of two primes gives values within the bound as long
# as that is below the modulus: flooding noise of threshold decryption is often wider than one prime. The code has a
# branch of its own for wide noise, so that this seemed to be thought of.
# Found: from sigma = 2^40 or so on, with primes of 40 bits and a modulus of 80, half of all values are far outside, all
# that should be negative, without an error: in the branch for narrower noise `qi - value` is computed in uint64 and
# wraps, for each prime by itself, unless the value is below every prime. The other branch begins at a bound of 2^64.
# What is decrypted with such noise is wrong. Primes wider than the bound avoid it, as benchmarks/homomorphic takes them.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > go.mod <<'GO'
module finding.invalid

go 1.23

require github.com/tuneinsight/lattigo/v6 v6.1.1
GO
cat > main.go <<'GO'
package main

import (
	"fmt"
	"math/big"
	"os"

	"github.com/tuneinsight/lattigo/v6/ring"
	"github.com/tuneinsight/lattigo/v6/utils/sampling"
)

const n = 4096

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
	return value
}

// How many of n values are beyond the bound.
func beyond(rings *ring.Ring, sigma float64) (count int) {
	noise := ring.DiscreteGaussian{Sigma: sigma, Bound: 6 * sigma}
	drawn := must(ring.NewSampler(must(sampling.NewPRNG()), rings, noise, false)).ReadNew()
	values := make([]*big.Int, n)
	for at := range values {
		values[at] = new(big.Int)
	}
	rings.PolyToBigintCentered(drawn, 1, values)
	bound, _ := new(big.Float).SetFloat64(6 * sigma).Int(nil)
	for _, value := range values {
		if value.CmpAbs(bound) > 0 {
			count++
		}
	}
	return count
}

func main() {
	generator := ring.NewNTTFriendlyPrimesGenerator(40, 2*n)
	rings := must(ring.NewRing(n, must(generator.NextAlternatingPrimes(2))))
	narrow, wide := beyond(rings, 1<<30), beyond(rings, 1<<45)
	fmt.Printf("two primes of 40 bits, a modulus of %d\n", rings.Modulus().BitLen())
	fmt.Printf("sigma 2^30, bound 6 sigma: %d of %d values beyond it\n", narrow, n)
	fmt.Printf("sigma 2^45, bound 6 sigma: %d of %d values beyond it\n", wide, n)
	if narrow != 0 || wide < n/3 {
		os.Exit(1)
	}
}
GO
go mod tidy 2>/dev/null
go list -m github.com/tuneinsight/lattigo/v6
go run .
