// Written by benchmarks/fit_gelu.py, which says what this is; do not edit.
#pragma once

namespace {

// Largest error in Phi: 2.8e-08 exactly evaluated, 1.4e-07 in float32, cut-off included.
constexpr float kGeluScale = 6.858710562e-02f;
constexpr int kGeluTerms = 15;
constexpr float kGeluCoefficients[kGeluTerms] = {
    // highest power first
    3.928578937e-04f,  -1.028368724e-03f, 8.749366006e-04f,  -1.186410657e-03f, 3.658918710e-03f,
    -6.715337970e-03f, 9.651198150e-03f,  -1.396332037e-02f, 1.964514344e-02f,  -2.574645707e-02f,
    3.211659535e-02f,  -3.920681306e-02f, 4.849959147e-02f,  -6.532805488e-02f, 1.309281126e-01f,
};

// Largest error in Phi: 1.6e-05 exactly evaluated, 4.8e-05 in float32, cut-off included.
constexpr float kCoarseGeluScale = 1.314924392e-01f;
constexpr int kCoarseGeluTerms = 8;
constexpr float kCoarseGeluCoefficients[kCoarseGeluTerms] = {
    // highest power first
    -2.674160900e-03f, 7.294610165e-03f, -1.133553622e-02f, 1.999550774e-02f,
    -3.563703406e-02f, 5.599009537e-02f, -8.569360991e-02f, 1.802488373e-01f,
};

}  // namespace
