#include "core/safetensors.h"

#include "core/error.h"
#include "tests/support.h"

#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <cstring>
#include <limits>
#include <new>
#include <numeric>

// Counts for test::peak_bytes_of. All forms for single objects, which do not call each other under ASan.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  void* block = std::malloc(size);
  const auto live = mnemo::test::Heap::live += block ? ::malloc_usable_size(block) : 0;
  if (live > mnemo::test::Heap::peak) mnemo::test::Heap::peak = live;
  return block;
}
void* operator new(std::size_t size) {
  if (void* block = operator new(size, std::nothrow)) return block;
  throw std::bad_alloc();
}
void operator delete(void* block) noexcept {
  if (block) mnemo::test::Heap::live -= ::malloc_usable_size(block);
  std::free(block);
}
void operator delete(void* block, std::size_t) noexcept { operator delete(block); }

namespace mnemo {
namespace {

using test::expect_error;
using test::slurp;
using test::spill;
using test::TemporaryDirectory;
using Digest = Safetensors::Digest;

/// A file with this header, as it stands.
std::string file_of(const std::string& header, const std::string& payload) {
  const std::uint64_t size = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &size, 8);
  return bytes + header + payload;
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

class SafetensorsTest : public ::testing::Test {
 protected:
  Safetensors read(const std::string& bytes, Digest digest = Digest::optional) {
    spill(path, bytes);
    return Safetensors::read(path, digest);
  }
  void expect_refused(const std::string& bytes, const std::string& part, Digest digest = Digest::optional) {
    expect_error(ExitCode::data, path.string() + ": " + part, [&] { read(bytes, digest); });
  }
  /// Writes one tensor of every type.
  void write_sample() {
    write_safetensors(path,
                      {{"bytes", view_of(bytes.data(), {3})},
                       {"empty", view_of(doubles.data(), {2, 0})},
                       {"doubles", view_of(doubles.data(), {2, 2})},
                       {"floats", view_of(floats.data(), {3, 1})},
                       {"ints", view_of(ints.data(), {1})},
                       {"longs", view_of(longs.data(), {2})},
                       {"scalar", view_of(doubles.data(), {})}},
                      {{"format", "pt"}, {"note", "quotes \" and \"digest\":\"00000000000000000000000000000000\""}});
  }
  std::vector<std::uint8_t> bytes = {0, 1, 255};
  std::vector<double> doubles = {0.5, -0.0, std::numeric_limits<double>::infinity(), 5e-324};
  std::vector<float> floats = {1.5f, -2.0f, 3.0f};
  std::vector<std::int32_t> ints = {INT32_MIN};
  std::vector<std::int64_t> longs = {INT64_MIN, INT64_MAX};
  TemporaryDirectory directory;
  std::filesystem::path path = directory / "a.safetensors";
};

void expect_consistent(const Safetensors& file) {
  std::size_t sum = 0;
  for (const auto& [name, view] : file.tensors()) {
    ASSERT_EQ(checked_bytes(view.dtype, view.shape), static_cast<std::int64_t>(view.bytes()));
    ASSERT_EQ(reinterpret_cast<std::uintptr_t>(view.data) % size_of(view.dtype), 0u);
    for (auto byte : view.as_bytes()) sum += static_cast<unsigned char>(byte);  // ASan watches
  }
  ASSERT_GE(sum, 0u);
}

TEST_F(SafetensorsTest, RoundTripOfEveryType) {
  write_sample();
  auto first = Safetensors::read(path, Digest::required);
  const auto file = std::move(first);
  EXPECT_EQ(file.path(), path);
  EXPECT_EQ(file.tensors().size(), 7u);
  EXPECT_THAT(file.get<std::uint8_t>("bytes", 3), ::testing::ElementsAreArray(bytes));
  EXPECT_THAT(file.get<std::int32_t>("ints"), ::testing::ElementsAreArray(ints));
  EXPECT_THAT(file.get<std::int64_t>("longs"), ::testing::ElementsAreArray(longs));
  EXPECT_THAT(file.get<float>("floats"), ::testing::ElementsAreArray(floats));
  EXPECT_EQ(file.at("doubles").as_bytes(), view_of(doubles.data(), {4}).as_bytes());
  EXPECT_EQ(file.at("floats").shape, (Shape{3, 1}));
  EXPECT_EQ(file.at("scalar").shape, Shape{});
  EXPECT_EQ(file.at("empty").shape, (Shape{2, 0}));
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.metadata().at("note").substr(0, 8), "quotes \"");
  expect_consistent(file);
  EXPECT_FALSE(std::filesystem::exists(path.string() + ".tmp"));
}

TEST_F(SafetensorsTest, WritesTheBytesOfTheFormat) {
  const std::vector<float> values = {1.0f, 2.0f};
  const std::vector<std::int64_t> step = {3};
  write_safetensors(path, {{"w", view_of(values.data(), {2})}, {"step", view_of(step.data(), {})}});
  const auto whole = slurp(path);
  std::string header =
      "{\"__metadata__\":{\"digest\":\"00000000000000000000000000000000\"},"
      "\"step\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},"
      "\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  auto expected = file_of(header, std::string("\3\0\0\0\0\0\0\0\0\0\x80\x3f\0\0\0\x40", 16));
  expected.replace(8 + 27, 32, hash_of(expected));
  EXPECT_EQ(whole, expected);
}

TEST_F(SafetensorsTest, AskingForSomethingElseSaysSo) {
  write_sample();
  const auto file = Safetensors::read(path);
  EXPECT_TRUE(file.contains("floats"));
  EXPECT_FALSE(file.contains("weights"));
  expect_error(ExitCode::data, path.string() + ": has no tensor \"weights\"", [&] { file.at("weights"); });
  expect_error(ExitCode::data, "tensor \"floats\" holds 3 float32, expected float64", [&] { file.get<double>("floats"); });
  expect_error(ExitCode::data, "tensor \"floats\" holds 3 float32, expected 4 float32", [&] { file.get<float>("floats", 4); });
}

TEST_F(SafetensorsTest, WriterRefusesRepeatedNames) {
  for (const std::string name : {"a", "__metadata__"}) {
    expect_error(ExitCode::bug, "twice", [&] { write_safetensors(path, {{name, view_of(longs.data(), {1})}, {name, view_of(longs.data(), {1})}}); });
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(SafetensorsTest, ReadsTheGoldenFiles) {
  int files = 0;
  for (const auto& item : std::filesystem::directory_iterator(std::string(MNEMO_SOURCE_DIR) + "/tests/golden")) {
    if (item.path().extension() != ".safetensors") continue;
    const auto file = Safetensors::read(item.path());
    EXPECT_FALSE(file.tensors().empty()) << item.path();
    expect_consistent(file);
    ++files;
  }
  EXPECT_GT(files, 0);
}

TEST_F(SafetensorsTest, HandsOutAlignedTensorsOfAMisalignedFile) {
  // Headers of every length modulo 8, and tensors behind a lone byte.
  for (int blanks = 0; blanks < 8; ++blanks) {
    const auto header = "{" + entry("a", "BOOL", "[1]", "[0,1]") + "," + entry("b", "F64", "[1]", "[1,9]") + "," +
                        entry("c", "F32", "[2]", "[9,17]") + "," + entry("d", "I64", "[0]", "[9,9]") + "}" + std::string(blanks, ' ');
    std::string payload(17, '\0');
    payload[0] = 1;
    std::memcpy(payload.data() + 1, &doubles[0], 8);
    std::memcpy(payload.data() + 9, &floats[0], 8);
    const auto file = read(file_of(header, payload));
    expect_consistent(file);
    EXPECT_EQ(file.get<double>("b")[0], 0.5);
    EXPECT_THAT(file.get<float>("c"), ::testing::ElementsAre(1.5f, -2.0f));
    EXPECT_EQ(file.get<std::uint8_t>("a")[0], 1);
    payload[0] = 2;
    expect_refused(file_of(header, payload), "tensor \"a\" holds a bool that is neither 0 nor 1");
  }
}

TEST_F(SafetensorsTest, NeedsAtMostTwiceTheFile) {
  const std::string values(800'000, 'x');
  spill(path, file_of("{" + entry("a", "U8", "[1]", "[0,1]") + "," + entry("b", "F64", "[100000]", "[1,800001]") + "}", "x" + values));
  EXPECT_LT(test::peak_bytes_of([&] { Safetensors::read(path); }), 2 * values.size() + 8192);
  write_safetensors(path, {{"b", {Dtype::f64, {100'000}, reinterpret_cast<const std::byte*>(values.data())}}});
  EXPECT_LT(test::peak_bytes_of([&] { Safetensors::read(path, Digest::required); }), values.size() + 8192);
}

TEST_F(SafetensorsTest, NeedsNoMoreThanAFewTimesTheHeader) {
  std::string header = "{";
  for (int i = 0; i < 5000; ++i) header += entry(std::to_string(i), "U8", "[0]", "[0,0]") + ",";
  header.back() = '}';
  for (const auto& text : {header, "{" + entry(std::string(300'000, 'n'), "U8", "[0]", "[0,0]") + "}"}) {
    spill(path, file_of(text, ""));
    const auto peak = test::peak_bytes_of([&] { EXPECT_FALSE(Safetensors::read(path).tensors().empty()); });
    EXPECT_LT(peak, 8 * text.size()) << static_cast<double>(peak) / static_cast<double>(text.size());
  }
}

TEST_F(SafetensorsTest, EveryTruncationIsRefused) {
  write_sample();
  const auto whole = slurp(path);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    expect_refused(whole.substr(0, size), "");
    expect_refused(whole.substr(0, size), "", Digest::required);
  }
  expect_refused(whole + '\0', "", Digest::required);
  EXPECT_NO_THROW(read(whole, Digest::required));
}

TEST_F(SafetensorsTest, EveryFlippedBitIsRefused) {
  write_sample();
  const auto whole = slurp(path);
  for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    auto bad = whole;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    expect_refused(bad, "", Digest::required);
    if (HasFailure()) FAIL() << "bit " << bit;
  }
}

TEST_F(SafetensorsTest, FlippedPayloadBitsAreRefused) {
  std::vector<float> values(16 * 1024);
  std::iota(values.begin(), values.end(), 0.0f);
  write_safetensors(path, {{"w", view_of(values.data(), {16 * 1024})}});
  const auto whole = slurp(path);
  const auto payload = 4 * values.size();
  const int descriptor = ::open(path.c_str(), O_WRONLY);
  std::mt19937_64 random(1);
  int refused = 0;
  for (int i = 0; i < 10'000; ++i) {
    const auto bit = random() % (8 * payload);
    const auto at = whole.size() - payload + bit / 8;
    const char bad = static_cast<char>(whole[at] ^ (1 << bit % 8));
    ASSERT_EQ(::pwrite(descriptor, &bad, 1, static_cast<off_t>(at)), 1);
    try {
      Safetensors::read(path, Digest::required);
    } catch (const Error& error) {
      refused += error.code() == ExitCode::data;
    }
    ASSERT_EQ(::pwrite(descriptor, &whole[at], 1, static_cast<off_t>(at)), 1);
  }
  ::close(descriptor);
  EXPECT_EQ(refused, 10'000);
  EXPECT_NO_THROW(Safetensors::read(path, Digest::required));
}

TEST_F(SafetensorsTest, MutatedFilesAreReadOrRefused) {
  std::mt19937_64 random(2);
  const auto plain = file_of("{\"__metadata__\":{\"k\":\"v\"}," + entry("a", "F32", "[2,1]", "[0,8]") + "," + entry("b", "BOOL", "[]", "[8,9]") +
                                 "," + entry("c", "I64", "[0,5]", "[9,9]") + "}",
                             std::string(9, '\1'));
  write_sample();
  const std::string seeds[] = {plain, slurp(path)};
  int accepted = 0;
  for (int i = 0; i < 8000; ++i) {
    auto mutant = test::mutated(seeds[i % 2], random);
    if (i % 4 < 2 && mutant.size() > 8) {  // a right header length leads deeper
      const std::uint64_t size = mutant.rfind('}') - 7;
      std::memcpy(mutant.data(), &size, 8);
    }
    spill(path, mutant);
    const auto peak = test::peak_bytes_of([&] {
      try {
        expect_consistent(Safetensors::read(path));
        ++accepted;
      } catch (const Error& error) {
        ASSERT_EQ(static_cast<int>(error.code()), static_cast<int>(ExitCode::data)) << error.what();
        ASSERT_TRUE(std::string(error.what()).starts_with(path.string())) << error.what();
      }
    });
    ASSERT_LT(peak, 2 * mutant.size() + 16384);
  }
  EXPECT_GT(accepted, 20);
}

TEST_F(SafetensorsTest, DigestMustBeTheFilesOwn) {
  const auto a = entry("a", "U8", "[1]", "[0,1]");
  expect_refused(file_of("{" + a + "}", "x"), "has no digest", Digest::required);
  EXPECT_NO_THROW(read(file_of("{" + a + "}", "x")));
  const auto with = [&](const std::string& metadata) { return file_of("{\"__metadata__\":" + metadata + "," + a + "}", "x"); };
  expect_refused(with("{\"digest\":\"00000000000000000000000000000000\"}"), "is damaged");
  for (const auto* digest : {"\"\"", "\"0000\"", "\"000000000000000000000000000000\\u0030\\u0030\""}) {
    expect_refused(with("{\"digest\":" + std::string(digest) + "}"), "its digest is not one that mnemo writes");
  }
  auto spaced = with("{\"digest\": \"00000000000000000000000000000000\"}");
  spaced.replace(spaced.find("00000000"), 32, hash_of(spaced));
  expect_refused(spaced, "its digest is not one that mnemo writes");
}

TEST_F(SafetensorsTest, HostileHeaders) {
  const auto a = entry("a", "U8", "[1]", "[0,1]");
  const auto header = [&](const std::string& text, const std::string& part, const std::string& payload = "xx") {
    SCOPED_TRACE(text.substr(0, 200));
    expect_refused(file_of(text, payload), part);
  };
  for (std::uint64_t size : {std::uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 7, std::uint64_t{100'000'001}, std::uint64_t{3}}) {
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &size, 8);
    expect_refused(bytes + "{}", "is no safetensors file, or is cut off: a header of");
  }
  for (const auto* text : {"", "[]", "\"x\"", " {}", "\xEF\xBB\xBF{}", "null", "7"}) header(text, "is no safetensors file: its header");
  for (const auto* text : {"{", "{}{}", "{} x", "{\"a\":{\"dtype\":", "{\"a\":{\"dtype\":\"\xff\"}}", "{/**/}", "{\"a\":1e999}", "{a:1}"}) {
    header(text, "its header is no valid JSON");
  }
  header(std::string("{}\0 anything", 12), "its header is no valid JSON");
  header("{" + a + "," + a + "}", "tensor \"a\" appears twice");
  header("{" + a + "," + entry("\\u0061", "U8", "[1]", "[1,2]") + "}", "tensor \"a\" appears twice");
  header("{\"__metadata__\":{},\"__metadata__\":{}," + a + "}", "tensor \"__metadata__\" appears twice");
  header("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}," + a + "}", "__metadata__ has \"k\" twice");
  for (const auto* value : {"1", "null", "true", "{}", "[]", "-1", "1.5"}) {
    header("{\"__metadata__\":{\"k\":" + std::string(value) + "}," + a + "}", "__metadata__ holds something other than strings");
    header("{\"__metadata__\":" + std::string(value) + "," + a + "}", *value == '{' ? "has a payload of 2" : "tensor \"__metadata__\" is no");
    if (*value != '{') header("{\"a\":" + std::string(value) + "}", "tensor \"a\" is no JSON object");
  }
  for (const auto* field : {"\"dtype\":\"U8\"", "\"shape\":[1]", "\"data_offsets\":[0,1]", "\"extra\":1"}) {
    auto repeated = a;
    repeated.insert(repeated.size() - 1, "," + std::string(field));
    header("{" + repeated + "}", "tensor \"a\" has an unknown or repeated field");
  }
  header("{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", "tensor \"a\" lacks");
  header("{\"a\":{}}", "tensor \"a\" lacks");
  header("{\"a\":{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}}", "tensor \"a\" has a bad dtype: it must be a string");
  for (const auto* dtype : {"F16", "BF16", "I8", "U64", "f32", ""}) {
    header("{" + entry("a", dtype, "[1]", "[0,1]") + "}", "tensor \"a\" has dtype \"" + std::string(dtype) + "\", which is not supported");
  }
  for (const auto* list :
       {"[-1]", "[1.0]", "[1e0]", "[\"1\"]", "[null]", "[[1]]", "[true]", "[-0]", "[9223372036854775808]", "[{}]", "1", "{}", "null", "\"\""}) {
    header("{" + entry("a", "U8", list, "[0,1]") + "}", "tensor \"a\" has a bad shape: it must be a list of whole numbers >= 0");
    header("{" + entry("a", "U8", "[1]", list) + "}", "tensor \"a\" has a bad data_offsets: it must be a list of whole numbers >= 0");
  }
  header("{" + entry("a", "U8", "[18446744073709551616]", "[0,1]") + "}", "tensor \"a\" has a bad shape");
  for (const auto* shape : {"[4294967296,4294967296]", "[0,4294967296,4294967296]", "[9223372036854775807,2]"}) {
    header("{" + entry("a", "U8", shape, "[0,0]") + "}", "tensor \"a\" has an impossibly large shape");
  }
  header("{" + entry("a", "F64", "[1152921504606846976]", "[0,0]") + "}", "tensor \"a\" has an impossibly large shape");
  header("{" + entry("a", "U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]") + "}", "tensor \"a\" has a shape of more than 8");
  for (const auto* offsets : {"[]", "[0]", "[0,1,1]", "[1,0]", "[0,2]", "[2,1]", "[0,9223372036854775807]"}) {
    header("{" + entry("a", "U8", "[1]", offsets) + "}", "tensor \"a\" has the data_offsets [");
  }
}

TEST_F(SafetensorsTest, RangesMustTileThePayload) {
  const auto two = [&](const std::string& first, const std::string& second, const std::string& payload) {
    return file_of("{" + entry("a", "U8", "[2]", first) + "," + entry("b", "U8", "[2]", second) + "}", payload);
  };
  EXPECT_NO_THROW(read(two("[0,2]", "[2,4]", "wxyz")));
  EXPECT_NO_THROW(read(two("[2,4]", "[0,2]", "wxyz")));
  for (const auto& [first, second] : {std::pair("[0,2]", "[1,3]"), {"[0,2]", "[0,2]"}, {"[0,2]", "[3,5]"}, {"[1,3]", "[3,5]"}}) {
    expect_refused(two(first, second, "vwxyz"), "tensor ");
  }
  expect_refused(two("[0,2]", "[2,4]", "xyz"), "tensor \"b\" ends at byte 4 of a payload of 3");
  expect_refused(two("[0,2]", "[2,4]", "vwxyz"), "has a payload of 5 bytes, its tensors end at 4");
  expect_refused(file_of("{}", "x"), "has a payload of 1 bytes");
  EXPECT_TRUE(read(file_of("{}", "")).tensors().empty());
  expect_refused(file_of("{" + entry("a", "U8", "[0]", "[5,5]") + "}", ""), "tensor \"a\" begins at byte 5");
}

TEST_F(SafetensorsTest, DeepNestingEndsAtOnce) {
  for (const std::string bracket : {"[", "{\"a\":"}) {
    std::string deep = "{\"a\":";
    for (int i = 0; i < 10'000; ++i) deep += bracket;
    spill(path, file_of(deep, ""));
    const auto peak = test::peak_bytes_of([&] { expect_error(ExitCode::data, "tensor \"a\" ", [&] { Safetensors::read(path); }); });
    EXPECT_LT(peak, deep.size() + 16384);
  }
}

TEST_F(SafetensorsTest, StrangeNamesAreSafe) {
  const auto file = read(file_of("{" + entry("a\\u0000b", "U8", "[1]", "[0,1]") + "," + entry("", "U8", "[1]", "[1,2]") + "}", "xy"));
  EXPECT_TRUE(file.contains(std::string("a\0b", 3)));
  EXPECT_TRUE(file.contains(""));
  const auto long_name = std::string(99, 'n') + "\xc3\xa9" + std::string(100'000, 'n') + "\\n";
  try {
    read(file_of("{" + entry(long_name, "F16", "[1]", "[0,2]") + "}", "xy"));
    FAIL();
  } catch (const Error& error) {
    EXPECT_LT(std::strlen(error.what()), 400u);
  }
}

}  // namespace
}  // namespace mnemo
