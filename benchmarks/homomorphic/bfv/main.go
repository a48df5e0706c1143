// Sums integer vectors under threshold BFV (Lattigo) and prints, as JSON, what that takes.
//
// All parties are in this process and take their turns, on one core; what each computes and sends is told for itself.
// Keys are made once in a job: a collective public key, and Shamir shares of every party's secret. In a round each party
// encrypts; the ciphertexts are summed; `threshold` parties send a share of the decryption with flooding noise, which
// hides their keys; the shares make the sum, which is held against that of the plain vectors.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/tuneinsight/lattigo/v6/core/rlwe"
	"github.com/tuneinsight/lattigo/v6/multiparty"
	"github.com/tuneinsight/lattigo/v6/ring"
	"github.com/tuneinsight/lattigo/v6/schemes/bgv"
	"github.com/tuneinsight/lattigo/v6/utils/sampling"
)

// 128 bits of security: 4,096 coefficients take a modulus of at most 109 bits with ternary secrets.
var literal = bgv.ParametersLiteral{
	LogN: 12,
	LogQ: []int{54, 54},
	// The least prime that is 1 modulo 2N and above the span of a sum of four int16.
	PlaintextModulus: 270337,
}

// 40 bits above the noise of a sum of fresh ciphertexts. Six times as much is still less than each factor of the modulus:
// with more, Lattigo's noise comes out wrong, see findings/noise-wider-than-a-prime.sh.
const flooding = 1 << 51

const runs = 5

type party struct {
	secret *rlwe.SecretKey
	point  multiparty.ShamirPublicPoint
	shared multiparty.ShamirSecretShare
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Of CPU, the least of several runs: other work on the machine changes little of it.
func seconds(work func()) float64 {
	least := math.Inf(1)
	for range runs {
		start := used()
		work()
		least = min(least, used()-start)
	}
	return least
}

func used() float64 {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

func main() {
	coordinates := flag.Int("coordinates", 252398, "of every vector")
	parties := flag.Int("parties", 4, "4 at the most: the plaintext modulus holds a sum of so many int16")
	threshold := flag.Int("threshold", 3, "parties that decrypt")
	flag.Parse()
	if *parties < 2 || *parties > 4 || *threshold < 2 || *threshold > *parties || *coordinates < 1 {
		check(fmt.Errorf("2 to 4 parties, of whom 2 or more decrypt, and at least one coordinate"))
	}
	runtime.GOMAXPROCS(1)
	params := must(bgv.NewParametersFromLiteral(literal))
	slots := params.MaxSlots()
	blocks := (*coordinates + slots - 1) / slots

	everybody, public, setup := keys(params, *parties, *threshold)
	random := rand.New(rand.NewSource(1))
	vectors, expected := make([][]int64, *parties), make([]int64, *coordinates)
	for number := range vectors {
		vectors[number] = make([]int64, *coordinates)
		for at := range vectors[number] {
			vectors[number][at] = int64(int16(random.Uint32()))
			expected[at] += vectors[number][at]
		}
	}

	encoder, encryptor := bgv.NewEncoder(params), bgv.NewEncryptor(params, public)
	sent := make([][]*rlwe.Ciphertext, *parties)
	encrypting := seconds(func() {
		for number, vector := range vectors {
			sent[number] = make([]*rlwe.Ciphertext, blocks)
			for block := range sent[number] {
				plain := bgv.NewPlaintext(params, params.MaxLevel())
				check(encoder.Encode(vector[block*slots:min((block+1)*slots, *coordinates)], plain))
				sent[number][block] = must(encryptor.EncryptNew(plain))
			}
		}
	})

	evaluator := bgv.NewEvaluator(params, nil)
	total := make([]*rlwe.Ciphertext, blocks)
	summing := seconds(func() {
		for block := range total {
			total[block] = sent[0][block].CopyNew()
			for _, others := range sent[1:] {
				check(evaluator.Add(total[block], others[block], total[block]))
			}
		}
	})

	switching := must(multiparty.NewKeySwitchProtocol(params, ring.DiscreteGaussian{Sigma: flooding, Bound: 6 * flooding}))
	zero, active := rlwe.NewSecretKey(params), everybody[:*threshold]
	shares := make([][]multiparty.KeySwitchShare, len(active))
	sharing := seconds(func() {
		for number, each := range active {
			own := additive(params, active, each)
			shares[number] = make([]multiparty.KeySwitchShare, blocks)
			for block := range shares[number] {
				shares[number][block] = switching.AllocateShare(params.MaxLevel())
				switching.GenShare(own, zero, total[block], &shares[number][block])
			}
		}
	})

	decryptor, found := bgv.NewDecryptor(params, zero), make([]int64, blocks*slots)
	decrypting := seconds(func() {
		for block, ciphertext := range total {
			combined, opened := switching.AllocateShare(params.MaxLevel()), ciphertext.CopyNew()
			for _, each := range shares {
				check(switching.AggregateShares(combined, each[block], &combined))
			}
			switching.KeySwitch(ciphertext, combined, opened)
			check(encoder.Decode(decryptor.DecryptNew(opened), found[block*slots:(block+1)*slots]))
		}
	})
	for at, value := range expected {
		if found[at] != value {
			check(fmt.Errorf("coordinate %d is %d in the sum, and %d was decrypted", at, value, found[at]))
		}
	}

	bits := float64(params.LogQ()) / float64(64*params.MaxLevel()+64)
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"coordinates": *coordinates, "parties": *parties, "threshold": *threshold, "log_n": params.LogN(),
		"log_q": params.LogQ(), "ciphertexts": blocks, "setup": setup / float64(*parties),
		"encrypt": encrypting / float64(*parties), "share": sharing / float64(len(active)), "sum": summing,
		"decrypt": decrypting, "ciphertext_bytes": blocks * sent[1][0].BinarySize(),
		"share_bytes": blocks * shares[0][0].BinarySize(), "packed": bits,
	}))
}

// A party's part of everybody's secret, of those who decrypt.
func additive(params bgv.Parameters, active []*party, own *party) *rlwe.SecretKey {
	points := make([]multiparty.ShamirPublicPoint, len(active))
	for number, each := range active {
		points[number] = each.point
	}
	combiner := multiparty.NewCombiner(*params.GetRLWEParameters(), own.point, points, len(points))
	secret := rlwe.NewSecretKey(params)
	check(combiner.GenAdditiveShare(points, own.point, own.shared, secret))
	return secret
}

// Every party's keys, the public key of all, and the seconds that it took all of them.
func keys(params bgv.Parameters, number, threshold int) (everybody []*party, public *rlwe.PublicKey, taken float64) {
	public = rlwe.NewPublicKey(params)
	taken = seconds(func() {
		everybody = nil
		generator, sharer := rlwe.NewKeyGenerator(params), multiparty.NewThresholdizer(params)
		collective := multiparty.NewPublicKeyGenProtocol(params)
		common := collective.SampleCRP(must(sampling.NewKeyedPRNG([]byte("a string that all have in common"))))
		whole := collective.AllocateShare()
		for at := range number {
			everybody = append(everybody, &party{
				generator.GenSecretKeyNew(), multiparty.ShamirPublicPoint(at + 1), sharer.AllocateThresholdSecretShare(),
			})
		}
		for _, each := range everybody {
			share := collective.AllocateShare()
			collective.GenShare(each.secret, common, &share)
			collective.AggregateShares(whole, share, &whole)
			polynomial := must(sharer.GenShamirPolynomial(threshold, each.secret))
			for _, other := range everybody {
				letter := sharer.AllocateThresholdSecretShare()
				sharer.GenShamirSecretShare(other.point, polynomial, &letter)
				check(sharer.AggregateShares(other.shared, letter, &other.shared))
			}
		}
		collective.GenPublicKey(whole, common, public)
	})
	return everybody, public, taken
}
