def test_x(small_home): print(small_home)
