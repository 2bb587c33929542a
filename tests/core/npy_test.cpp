#include "core/npy.h"

#include "core/error.h"
#include "tests/support.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

namespace mnemo {
namespace {

using test::expect_error;
using test::slurp;
using test::spill;
using test::TemporaryDirectory;

/// A file of the given version with this dict, as it stands.
std::string npy_of(const std::string& dict, const std::string& elements, int version = 1) {
  std::string bytes = std::string("\x93NUMPY") + static_cast<char>(version) + '\0';
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i) bytes += static_cast<char>(dict.size() >> 8 * i);
  return bytes + dict + elements;
}

std::string dict_of(const std::string& descr, const std::string& shape, const std::string& fortran = "False") {
  return "{'descr': '" + descr + "', 'fortran_order': " + fortran + ", 'shape': " + shape + ", }    \n";
}

class NpyTest : public ::testing::Test {
 protected:
  NpyArray read(const std::string& bytes, bool allow_excess = false) {
    spill(path, bytes);
    return read_npy(path, allow_excess);
  }
  void expect_refused(const std::string& bytes, const std::string& part) {
    expect_error(ExitCode::data, path.string() + ": " + part, [&] { read(bytes); });
  }
  TemporaryDirectory directory;
  std::filesystem::path path = directory / "a.npy";
};

TEST_F(NpyTest, HeaderHasTheBytesThatNumPyWrites) {
  // numpy.save of numpy.zeros((3, 4), '<f8'): magic, 1.0, 118 = 0x76, the dict, blanks up to byte 127, a newline.
  const std::string dict = "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }";
  const auto expected = std::string("\x93NUMPY\x01\x00\x76\x00", 10) + dict + std::string(117 - dict.size(), ' ') + "\n";
  ASSERT_EQ(expected.size(), 128u);
  EXPECT_EQ(npy_header(Dtype::f64, {3, 4}), expected);
  EXPECT_THAT(npy_header(Dtype::u8, {}), ::testing::HasSubstr("'descr': '|u1', 'fortran_order': False, 'shape': (), }"));
  EXPECT_THAT(npy_header(Dtype::i64, {7}), ::testing::HasSubstr("'descr': '<i8', 'fortran_order': False, 'shape': (7,), }"));
  expect_error(ExitCode::bug, "too long", [] { npy_header(Dtype::u8, Shape(8, INT64_MAX)); });
}

TEST_F(NpyTest, ReadsAFileThatNumPyWrote) {
  // numpy.save of numpy.array([[1.5, -2.0]], '<f4') in NumPy 1.26, from a hex dump.
  const std::string dict = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }";
  const auto bytes = std::string("\x93NUMPY\x01\x00\x76\x00", 10) + dict + std::string(117 - dict.size(), ' ') + "\n" +
                     std::string("\x00\x00\xc0\x3f\x00\x00\x00\xc0", 8);
  const auto array = read(bytes);
  EXPECT_EQ(array.dtype, Dtype::f32);
  EXPECT_EQ(array.shape, (Shape{1, 2}));
  EXPECT_THAT(array.view().as<float>(), ::testing::ElementsAre(1.5f, -2.0f));
}

template <class T>
void expect_round_trip(const std::filesystem::path& path, const Shape& shape) {
  std::vector<T> values(static_cast<std::size_t>(num_elements(shape)));
  std::iota(values.begin(), values.end(), static_cast<T>(1));
  if (!values.empty()) values.back() = std::numeric_limits<T>::lowest();
  write_npy(path, view_of(values.data(), shape));
  const auto array = read_npy(path);
  EXPECT_EQ(array.dtype, DtypeOf<T>::value);
  EXPECT_EQ(array.shape, shape);
  EXPECT_EQ(array.bytes, view_of(values.data(), shape).as_bytes());
  const auto header = read_npy_header(path);
  EXPECT_EQ(header.dtype, DtypeOf<T>::value);
  EXPECT_EQ(header.shape, shape);
  EXPECT_EQ(header.data_offset, 128);
  EXPECT_FALSE(std::filesystem::exists(path.string() + ".tmp"));
}

TEST_F(NpyTest, RoundTripOfEveryTypeAndShape) {
  for (const Shape& shape : {Shape{}, {0}, {1}, {5}, {3, 4}, {2, 0, 3}, {1, 2, 1, 2, 1, 2, 1, 2}}) {
    expect_round_trip<std::uint8_t>(path, shape);
    expect_round_trip<std::int32_t>(path, shape);
    expect_round_trip<std::int64_t>(path, shape);
    expect_round_trip<float>(path, shape);
    expect_round_trip<double>(path, shape);
  }
}

TEST_F(NpyTest, AcceptsEveryFormOfTheHeader) {
  const std::string one_float(4, '\0');
  for (int version : {1, 2, 3}) EXPECT_EQ(read(npy_of(dict_of("<f4", "(1,)"), one_float, version)).shape, (Shape{1}));
  EXPECT_EQ(read(npy_of("{\"shape\": (1, 1), 'fortran_order':False,\"descr\":\"<f4\"}\n", one_float)).shape, (Shape{1, 1}));
  EXPECT_EQ(read(npy_of("  { 'descr' : '<f4' , 'fortran_order' : False , 'shape' : ( 1 , 1 , ) , }\n", one_float)).shape, (Shape{1, 1}));
  EXPECT_EQ(read(npy_of(dict_of("<f4", "()"), one_float)).shape, Shape{});
  EXPECT_EQ(read(npy_of(dict_of("<i8", "(0, 1152921504606846975)"), "")).shape.size(), 2u) << "0 times a size that fits";
}

TEST_F(NpyTest, RefusesOtherHeaders) {
  const std::string four(4, '\0');
  const std::string foreign = "its header is not one that NumPy writes";
  for (const std::string dict :
       {"", "\n", "{}\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n\n", "{'descr': '<f4', 'fortran_order': False}\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': 1}\n",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x\n",
        "{'descr': '<f4' 'fortran_order': False}\n", "{'descr': \"<f4', 'fortran_order': False, 'shape': (1,)}\n", "['descr', '<f4']\n", "{,}\n"}) {
    expect_refused(npy_of(dict, four), foreign);
  }
  for (const std::string shape : {"(1)", "(1L,)", "(-1,)", "(1.0,)", "(+1,)", "(1,,)", "(,)", "[1]", "1", "(1,", "None", "(0x1,)"}) {
    expect_refused(npy_of(dict_of("<f4", shape), four), foreign);
  }
  for (const std::string fortran : {"false", "0", "Tru", "Falsey", "None"}) {
    expect_refused(npy_of(dict_of("<f4", "(1,)", fortran), four), foreign);
  }
}

TEST_F(NpyTest, SaysWhatIsNotSupported) {
  const std::string bytes(64, '\0');
  expect_refused(npy_of(dict_of(">f4", "(1,)"), bytes), "is big-endian ('>f4'), which is not supported");
  for (const auto* descr : {"|O", "O"}) expect_refused(npy_of(dict_of(descr, "(1,)"), bytes), "holds Python objects");
  for (const auto* descr : {"<f2", "<u1", "<i1", "|i4", "=f4", "f4", "|S3", "<U8", "<c8", "<u4", "<M8[ns]", "", "<f4 "}) {
    expect_refused(npy_of(dict_of(descr, "(1,)"), bytes), "its element type '");
  }
  expect_refused(npy_of("{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (1,), }\n", bytes), "holds records");
  expect_refused(npy_of(dict_of("<f4", "(2, 2)", "True"), bytes), "is in Fortran order; save it with numpy.ascontiguousarray");
  expect_refused(npy_of(dict_of("<f4", "(1,)"), bytes, 4), "has version 4.0");
  expect_refused(npy_of(dict_of("<f4", "(1,)"), bytes, 0), "has version 0.0");
  expect_refused(npy_of(dict_of("<f4", "(1, 1, 1, 1, 1, 1, 1, 1, 1)"), bytes), "has more than 8 dimensions");
  expect_refused("PK\3\4 a .npz file", "is not a .npy file");
  expect_refused("", "is not a .npy file");
}

TEST_F(NpyTest, RefusesImpossibleSizes) {
  for (const auto* shape : {"(4294967296, 4294967296)", "(9223372036854775807,)", "(0, 4294967296, 4294967296)", "(9223372036854775808,)",
                            "(99999999999999999999999,)", "(2305843009213693952,)"}) {
    expect_refused(npy_of(dict_of("<f4", shape), "1234"), "its shape ");
  }
  expect_refused(npy_of(dict_of("<f8", "(3, 4)"), std::string(95, '\0')),
                 "holds 95 bytes of elements, its shape (3, 4) of float64 needs 96: it was cut off");
  expect_refused(npy_of(dict_of("<f8", "(3, 4)"), std::string(97, '\0')), "holds 97 bytes of elements, its shape (3, 4) of float64 needs only 96");
  EXPECT_EQ(read(npy_of(dict_of("<f8", "(3, 4)"), std::string(97, '\0')), true).bytes.size(), 96u);
  EXPECT_EQ(read_npy_header(path).shape, (Shape{3, 4}));
  const auto huge = std::string("\x93NUMPY\x02\x00\xff\xff\xff\xff", 12) + dict_of("<f4", "(1,)");
  expect_refused(huge, "its header of 4294967295 bytes is impossibly long");
}

TEST_F(NpyTest, ChecksSmallElements) {
  EXPECT_EQ(read(npy_of(dict_of("|b1", "(3,)"), std::string("\0\1\1", 3))).dtype, Dtype::u8);
  expect_refused(npy_of(dict_of("|b1", "(2,)"), "\1\2"), "holds a bool that is neither 0 nor 1");
  EXPECT_EQ(read(npy_of(dict_of("|i1", "(2,)"), "\1\x7f")).bytes, "\1\x7f");
  expect_refused(npy_of(dict_of("|i1", "(2,)"), "\1\x80"), "holds negative int8 elements");
  EXPECT_EQ(read(npy_of(dict_of("|u1", "(2,)"), "\1\xff")).bytes, "\1\xff");
}

TEST_F(NpyTest, MissingFileIsNoDataError) {
  expect_error(ExitCode::io, path.string() + ": cannot open: No such file", [&] { read_npy(path); });
  expect_error(ExitCode::io, path.string() + ": cannot open: No such file", [&] { read_npy_header(path); });
}

TEST_F(NpyTest, EveryTruncationIsRefused) {
  const std::vector<double> values(6, 1.0);
  write_npy(path, view_of(values.data(), {2, 3}));
  const auto whole = slurp(path);
  for (std::size_t size = 0; size < whole.size(); ++size) expect_refused(whole.substr(0, size), "");
  EXPECT_NO_THROW(read(whole));
}

TEST_F(NpyTest, MutatedFilesAreReadOrRefused) {
  std::mt19937_64 random(1);
  std::size_t accepted = 0;
  const std::string seeds[] = {npy_of(dict_of("<f8", "(2, 3)"), std::string(48, 'x')), npy_of(dict_of("|b1", "(5,)"), std::string(5, '\1'), 2),
                               npy_of(dict_of("<i4", "()"), std::string(4, '\7'), 3)};
  for (int i = 0; i < 6000; ++i) {
    const auto bytes = test::mutated(seeds[i % 3], random);
    spill(path, bytes);
    const auto peak = test::peak_bytes_of([&] {
      try {
        const auto array = read_npy(path, i % 2 == 0);
        ASSERT_EQ(checked_bytes(array.dtype, array.shape), std::ssize(array.bytes));
        ASSERT_EQ(read_npy_header(path).shape, array.shape);
        ++accepted;
      } catch (const Error& error) {
        ASSERT_EQ(static_cast<int>(error.code()), static_cast<int>(ExitCode::data)) << error.what();
        ASSERT_TRUE(std::string(error.what()).starts_with(path.string())) << error.what();
      }
    });
    ASSERT_LT(peak, 2 * bytes.size() + 4096);
  }
  EXPECT_GT(accepted, 100u);  // the mutations do reach the elements
}

TEST_F(NpyTest, NeedsNoMoreMemoryThanTheFile) {
  const std::vector<double> values(100'000, 1.0);
  write_npy(path, view_of(values.data(), {100'000}));
  EXPECT_LT(test::peak_bytes_of([&] { read_npy(path); }), values.size() * sizeof(double) + 4096);
}

TEST_F(NpyTest, AppenderKeepsAValidFile) {
  NpyAppender file(path, Dtype::f32, {2, 2});
  file.begin();
  EXPECT_EQ(read_npy(path).shape, (Shape{0, 2, 2}));
  for (int t = 1; t <= 5; ++t) {
    file.append(row_of(std::vector<float>(4, static_cast<float>(t))));
    EXPECT_EQ(file.rows(), t);
    const auto array = read_npy(path);
    ASSERT_EQ(array.shape, (Shape{t, 2, 2}));
    EXPECT_EQ(array.view().as<float>().back(), static_cast<float>(t));
  }
  expect_error(ExitCode::bug, "a row of 3 float32", [&] { file.append(row_of(std::vector<float>(3))); });
  expect_error(ExitCode::bug, "a row of 4 int32", [&] { file.append(row_of(std::vector<std::int32_t>(4))); });
  expect_error(ExitCode::bug, "a row without elements", [&] { NpyAppender(path, Dtype::f32, {3, 0}); });
}

TEST_F(NpyTest, AppenderTakesScalarRows) {
  NpyAppender file(path, Dtype::i64, {});
  file.begin();
  for (std::int64_t step : {0, 10, 20}) file.append(view_of(&step, {}));
  file.sync();
  EXPECT_EQ(read_npy(path).shape, (Shape{3}));
  EXPECT_THAT(read_npy(path).view().as<std::int64_t>(), ::testing::ElementsAre(0, 10, 20));
}

TEST_F(NpyTest, AppenderRewindsWithoutShrinkingAMappedFile) {
  NpyAppender file(path, Dtype::i64, {512});
  const auto row = [](std::int64_t value) { return std::vector<std::int64_t>(512, value); };
  file.begin();
  file.append(row_of(row(1)));
  const auto mark = file.mark();
  for (int t = 2; t <= 4; ++t) file.append(row_of(row(t)));
  const auto whole = std::filesystem::file_size(path);

  const int descriptor = ::open(path.c_str(), O_RDONLY);
  const auto* mapped = static_cast<const char*>(::mmap(nullptr, whole, PROT_READ, MAP_SHARED, descriptor, 0));
  ASSERT_NE(mapped, MAP_FAILED);
  NpyAppender resumed(path, Dtype::i64, {512});
  resumed.rewind(mark);
  EXPECT_EQ(resumed.rows(), 1);
  EXPECT_EQ(std::filesystem::file_size(path), whole);
  EXPECT_EQ(read_npy(path, true).shape, (Shape{1, 512}));
  EXPECT_EQ(static_cast<unsigned char>(mapped[whole - 8]), 4);  // a SIGBUS where the file has shrunk
  resumed.append(row_of(row(2)));
  EXPECT_EQ(read_npy(path, true).shape, (Shape{2, 512}));
  for (int t = 3; t <= 4; ++t) resumed.append(row_of(row(t)));
  EXPECT_EQ(resumed.mark(), file.mark());
  EXPECT_EQ(read_npy(path).view().as<std::int64_t>()[3 * 512], 4);

  resumed.begin();  // an older file is taken over, not cut
  EXPECT_EQ(std::filesystem::file_size(path), whole);
  EXPECT_EQ(read_npy(path, true).shape, (Shape{0, 512}));
  ::munmap(const_cast<char*>(mapped), whole);
  ::close(descriptor);
}

TEST_F(NpyTest, AppenderRefusesADamagedOrOddMark) {
  NpyAppender file(path, Dtype::f64, {});
  file.begin();
  const double value = 1.0;
  file.append(view_of(&value, {}));
  const auto mark = file.mark();
  expect_error(ExitCode::data, "no whole number of rows", [&] { file.rewind({mark.size - 1, mark.hash}); });
  expect_error(ExitCode::data, "before the end of its header", [&] { file.rewind({0, mark.hash}); });
  expect_error(ExitCode::data, "are not those", [&] { file.rewind({128, mark.hash}); });
  auto bytes = slurp(path);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  spill(path, bytes);
  expect_error(ExitCode::data, path.string() + ": its first 136 bytes are not those", [&] { file.rewind(mark); });
  EXPECT_EQ(file.rows(), 1);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  bytes[20] = '?';  // the header is written anew
  spill(path, bytes);
  file.rewind(mark);
  EXPECT_EQ(read_npy(path).shape, (Shape{1}));
}

}  // namespace
}  // namespace mnemo
