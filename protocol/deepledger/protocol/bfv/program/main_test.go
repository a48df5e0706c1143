package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/tuneinsight/lattigo/v6/core/rlwe"
	"github.com/tuneinsight/lattigo/v6/multiparty"
	"github.com/tuneinsight/lattigo/v6/ring"
	"github.com/tuneinsight/lattigo/v6/schemes/bgv"
)

// Of two keys that fit the first block of zeros, the program finds the one that is the sum's, whoever chose the other.
func TestAShareThatIsChosenSoThatABlockOfZerosFitsIsFoundOut(t *testing.T) {
	const parties, threshold, coordinates = 5, 4, 3
	seed, size := bytes.Repeat([]byte{7}, seedBytes), blocks(coordinates)*blockBytes
	params, common, err := begin(bytes.NewReader(seed))
	if err != nil {
		t.Fatal(err)
	}
	ringQ, vectors, given := params.RingQ(), make([][]byte, parties), make([]bytes.Buffer, parties)
	for party := range parties {
		var in bytes.Buffer
		in.Write(seed)
		binary.Write(&in, binary.LittleEndian, []int32{1, -2, 1 << 20})
		made := called(t, &in, "encrypt", coordinates, "-holders=5", "-threshold=4")
		vectors[party] = made[:size]
		for holder := range parties {
			given[holder].Write(made[size+holder*blockBytes:][:blockBytes])
		}
	}
	shares := make([]ring.Poly, parties)
	for holder := range parties {
		if shares[holder], err = sum(ringQ, &given[holder], parties); err != nil {
			t.Fatal(err)
		}
	}

	// The first four make the key; with the first's share off by 1, it is off by `factor`, and the block by `shift`.
	unit, secret, second, shift := make([]ring.Poly, threshold), rlwe.NewSecretKey(params), ringQ.NewPoly(), ringQ.NewPoly()
	for at := range unit {
		unit[at] = ringQ.NewPoly()
	}
	for at := range degree {
		unit[0].Coeffs[0][at] = 1
	}
	combine(params, []multiparty.ShamirPublicPoint{1, 2, 3, 4}, unit, []int{0, 1, 2, 3}, secret)
	ring.NewUniformSampler(common, ringQ).Read(second)
	ringQ.MulCoeffsMontgomery(second, secret.Value.Q, shift)
	for at, word := range shift.Coeffs[0] { // an error of 1 in the block: ones, everywhere
		shares[0].Coeffs[0][at] = (shares[0].Coeffs[0][at] + ring.ModExp(word, modulus-2, modulus)) % modulus
	}
	if !fitsFirst(params, second, vectors, shares) {
		t.Fatal("the attack is none: what it makes does not fit the first block")
	}

	var in bytes.Buffer
	in.Write(seed)
	for _, share := range shares {
		in.Write(pack(share.Coeffs[0]))
	}
	for at := range blocks(coordinates) {
		for _, vector := range vectors {
			in.Write(vector[at*blockBytes:][:blockBytes])
		}
	}
	made := called(t, &in, "open", coordinates, "-vectors=5", "-threshold=4", "-most=2147483647", "-points=1,2,3,4,5")
	opened := make([]int32, coordinates)
	binary.Read(bytes.NewReader(made), binary.LittleEndian, opened)
	if opened[0] != 5 || opened[1] != -10 || opened[2] != 5<<20 {
		t.Fatal(opened)
	}
}

// Whether the key that the first four shares make fits the first block.
func fitsFirst(params bgv.Parameters, second ring.Poly, vectors [][]byte, shares []ring.Poly) bool {
	ringQ, secret := params.RingQ(), rlwe.NewSecretKey(params)
	combine(params, []multiparty.ShamirPublicPoint{1, 2, 3, 4}, shares, []int{0, 1, 2, 3}, secret)
	var in bytes.Buffer
	for _, vector := range vectors {
		in.Write(vector[:blockBytes])
	}
	first, err := sum(ringQ, &in, len(vectors))
	rest := ringQ.NewPoly()
	ringQ.MulCoeffsMontgomery(second, secret.Value.Q, rest)
	ringQ.Add(rest, first, rest)
	return err == nil && isSmall(ringQ, rest, len(vectors)+1)
}

func called(t *testing.T, in *bytes.Buffer, command string, coordinates int, flags ...string) []byte {
	var out, complaints bytes.Buffer
	arguments := append([]string{command, fmt.Sprintf("-coordinates=%d", coordinates)}, flags...)
	if code := run(arguments, in, &out, &complaints); code != 0 {
		t.Fatal(command, code, complaints.String())
	}
	return out.Bytes()
}
